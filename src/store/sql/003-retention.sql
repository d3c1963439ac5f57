-- Snapshots, and events that go: by retention, or because somebody asked for it.

create table herald.snapshot (
	stream_number bigint primary key,
	version bigint not null,
	time timestamptz not null default now(),
	state jsonb not null
);

-- Stores the state that a stream's events up to a version make; false where there is a later one.
create function herald.snapshot_put(category text, stream text, version bigint, state jsonb)
returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
	wanted constant herald.stream_id := stream;
	here herald.stream;
begin
	select s.* into here from herald.stream s
	where s.category = snapshot_put.category and s.id = wanted;
	if not found or here.deleted or snapshot_put.version > here.version or snapshot_put.version < 0 then
		raise exception '%/% has no version %', category, stream, version using errcode = 'PH003';
	end if;
	insert into herald.snapshot as s (stream_number, version, state)
	values (here.number, snapshot_put.version, snapshot_put.state)
	on conflict (stream_number) do update
	set version = excluded.version, state = excluded.state, time = excluded.time
	where s.version <= excluded.version;
	return found;
end
$$;

-- The latest snapshot of a stream, if there is one.
create function herald.snapshot_get(category text, stream text)
returns table (version bigint, state jsonb, "time" timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
	wanted constant herald.stream_id := stream;
begin
	return query
	select n.version, n.state, n.time
	from herald.stream s
	join herald.snapshot n on n.stream_number = s.number
	where s.category = snapshot_get.category and s.id = wanted;
end
$$;

-- What an aggregate is made of: the latest snapshot (its state in data, no type) and the events behind
-- it, or all events.
create function herald.load(category text, stream text)
returns table (version bigint, type text, data jsonb, metadata jsonb, id uuid, "time" timestamptz)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set jit = off as $$
declare
	wanted constant herald.stream_id := stream;
begin
	return query
	with s as materialized (
		select s.number, n.version, n.state, n.time
		from herald.stream s
		left join herald.snapshot n on n.stream_number = s.number
		where s.category = load.category and s.id = wanted
	)
	select s.version, null::text, s.state, null::jsonb, null::uuid, s.time from s where s.version is not null
	union all
	select e.* from s
	cross join lateral (
		select e.version, e.type, e.data, coalesce(e.metadata, '{}'), e.id, e.time from herald.entry e
		where e.stream_number = s.number and e.version > coalesce(s.version, -1)
		order by e.version
	) e;
end
$$;

-- How long events of a category are kept: max_age for each, max_count of each stream; null: for ever.
-- The category's events up to the two positions need not be looked at again: by age they are gone, by
-- count what they push out is.
create table herald.retention (
	category text collate "C" primary key,
	max_age interval,
	max_count bigint check (max_count >= 1),
	aged_position bigint not null default 0,
	counted_position bigint not null default 0
);

create function herald.retain(category text, max_age interval default null, max_count bigint default null)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
	if max_age is null and max_count is null then
		delete from herald.retention r where r.category = retain.category;
		return;
	end if;
	insert into herald.retention as r (category, max_age, max_count)
	values (retain.category, retain.max_age, retain.max_count)
	on conflict on constraint retention_pkey do update
	set max_age = excluded.max_age, max_count = excluded.max_count, aged_position = 0, counted_position = 0;
end
$$;

-- Removes events, whose positions are given, from both tables, and from what was put aside.
create function herald.remove(positions bigint[]) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
	n bigint;
begin
	delete from herald.parked p where p.position = any (positions);
	with gone as (
		delete from herald.feed f where f.position = any (positions) returning f.event
	)
	delete from herald.entry e using gone g where e.id = g.event;
	get diagnostics n = row_count;
	return n;
end
$$;

-- At most so many events of a category that are too old, up to the first that is young enough; `slowest`
-- is the last that may go. looked: where the next look begins.
create function herald.find_aged(rule herald.retention, slowest bigint, max_count bigint,
	out old bigint[], out looked bigint)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
	young bigint;
begin
	with page as (
		select f.position, e.time >= clock_timestamp() - rule.max_age as young
		from herald.feed f
		cross join lateral (
			select e.time from herald.entry e where e.id = f.event limit 1
		) e
		where f.position > rule.aged_position and f.position <= slowest and f.category = rule.category
		order by f.position
		limit find_aged.max_count
	)
	select array_agg(p.position order by p.position), min(p.position) filter (where p.young),
		case when count(*) = find_aged.max_count then max(p.position) else slowest end
	into old, young, looked
	from page p;
	if young is not null then
		old := array(select o from unnest(old) o where o < young);
		looked := young - 1;
	end if;
end
$$;

-- The same by count. Each event pushes out the one that is so many versions before it: so the work is
-- that of the events which have come since, however many streams there are.
create function herald.find_counted(rule herald.retention, slowest bigint, horizon bigint, max_count bigint,
	out old bigint[], out looked bigint)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
	stays bigint;
begin
	looked := rule.counted_position;
	while old is null and stays is null and looked < horizon loop
		with page as (
			select f.position, o.position as old
			from (
				select f.position, f.event
				from herald.feed f
				where f.position > looked and f.position <= horizon and f.category = rule.category
				order by f.position
				limit find_counted.max_count
			) f
			left join lateral (
				select o.position from herald.entry e
				join herald.entry b on b.stream_number = e.stream_number
					and b.version = e.version - rule.max_count
				join herald.feed o on o.event = b.id
				where e.id = f.event
				limit 1
			) o on true
		), first as (
			select min(p.position) as position from page p where p.old > slowest
		)
		select array_agg(p.old) filter (where p.position < f.position is not false and p.old is not null),
			min(f.position), case when count(*) = find_counted.max_count then max(p.position) else horizon end
		into old, stays, looked
		from page p cross join first f;
	end loop;
	looked := coalesce(stays - 1, looked);
end
$$;

-- One batch: removes at most so many events that retention does not keep, and says how many; 0: there
-- are none now. Not those that a subscription has still to see or has parked, unless forced. Appends
-- wait for none of this: neither the stream's row nor a mark is taken. The settings are for read's reason.
create function herald.purge(max_count integer default 1000, force boolean default false)
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
	set jit = off set enable_sort = off set enable_bitmapscan = off set enable_seqscan = off as $$
declare
	horizon constant bigint := herald.horizon(); -- what appears later must not have been passed
	slowest bigint := horizon;
	rule herald.retention;
	found record;
	removed bigint := 0;
begin
	lock table herald.retention in share row exclusive mode; -- one at a time
	if not force then
		slowest := least(slowest, (select min(c.position) from herald.checkpoint c),
			(select min(p.position) - 1 from herald.parked p where not p.done));
	end if;
	for rule in select r.* from herald.retention r order by r.category loop
		if rule.max_age is not null and removed < max_count then
			found := herald.find_aged(rule, slowest, max_count - removed);
			removed := removed + herald.remove(found.old);
			update herald.retention r set aged_position = found.looked
			where r.category = rule.category and r.aged_position < found.looked;
		end if;
		if rule.max_count is not null and removed < max_count then
			found := herald.find_counted(rule, slowest, horizon, max_count - removed);
			removed := removed + herald.remove(found.old);
			update herald.retention r set counted_position = found.looked
			where r.category = rule.category and r.counted_position < found.looked;
		end if;
	end loop;
	return removed;
end
$$;

-- Removes a stream's events before a version; the number of those that went.
create function herald.truncate(category text, stream text, before bigint) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
	wanted constant herald.stream_id := stream;
begin
	return herald.remove(array(
		select f.position from herald.stream s
		join herald.entry e on e.stream_number = s.number
		join herald.feed f on f.event = e.id
		where s.category = truncate.category and s.id = wanted and e.version < before
	));
end
$$;

-- Removes a stream for good: its events, its snapshot, and what was parked of it. Its row remains as a
-- tombstone, so that nothing can be appended to it again (PH007).
create function herald.delete(category text, stream text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
	wanted constant herald.stream_id := stream;
	gone bigint;
	n bigint;
begin
	update herald.stream s set deleted = true
	where s.category = delete.category and s.id = wanted
	returning s.number into gone;
	delete from herald.feed f using herald.entry e where e.stream_number = gone and f.event = e.id;
	delete from herald.snapshot s where s.stream_number = gone;
	delete from herald.parked p where p.stream_number = gone;
	delete from herald.entry e where e.stream_number = gone;
	get diagnostics n = row_count;
	return n;
end
$$;

-- Replaces what an event says and keeps its place; its metadata goes, too. Snapshots of the stream from
-- there on are dropped: they may hold what was to go.
create function herald.redact("position" bigint, data jsonb default '{}') returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
	here record;
begin
	update herald.entry e set data = redact.data, metadata = null, redacted = true
	from herald.feed f
	where f.position = redact.position and e.id = f.event
	returning e.stream_number, e.version into here;
	if not found then
		return false;
	end if;
	delete from herald.snapshot s
	where s.stream_number = here.stream_number and s.version >= here.version;
	return true;
end
$$;

revoke all on all functions in schema herald from public;

-- What removes or changes events is for the owner alone.
call herald.allow('herald_writer', 'snapshot_put', 'snapshot_get', 'load');
call herald.allow('herald_reader', 'snapshot_get', 'load');

insert into herald.migration (number, name) values (3, 'retention');
