-- Subscriptions: several executors work on one, each on partitions of its own, and a stream's events
-- are always in one partition. A checkpoint is all that a partition remembers.
--
--     select * from herald.claim('mailer', 'worker 1');            -- a partition, a token
--     select * from herald.fetch('mailer', 0, token);              -- events
--     begin; ...the handler's work...; select herald.ack('mailer', 0, token, position); commit;
--
-- The token fences: whoever has lost the lease to another cannot acknowledge any more (PH005), and the
-- work of the same transaction goes with it. So effects in this database happen exactly once.

create table herald.subscription (
	name text primary key check (name <> ''),
	source jsonb not null,
	categories text[],
	topics text[],
	types text[],
	stream text, -- an id in the one category
	partitions integer not null check (partitions between 1 and 1024),
	next_partitions integer, -- as soon as every checkpoint has come to the barrier
	barrier bigint,
	on_failure text not null default 'stop' check (on_failure in ('stop', 'park', 'park-stream')),
	max_attempts integer not null default 5 check (max_attempts >= 1),
	backoff interval not null default '1 second',
	created timestamptz not null default now()
);

create table herald.checkpoint (
	subscription text not null references herald.subscription on delete cascade,
	partition integer not null,
	position bigint not null, -- everything up to here is done, or parked
	token bigint not null default 0,
	owner text, -- null: free
	lease interval,
	lease_until timestamptz,
	served timestamptz,
	failed_position bigint,
	attempts integer not null default 0,
	retry_at timestamptz,
	error text,
	stopped boolean not null default false,
	primary key (subscription, partition)
) with (fillfactor = 50);

-- Events that were put aside. Those of a stream that is blocked wait in order behind the first one.
-- What is done stays until the checkpoint is past it, so that it is not delivered again.
create table herald.parked (
	subscription text not null references herald.subscription on delete cascade,
	position bigint not null,
	stream_number bigint not null,
	blocks boolean not null,
	done boolean not null default false,
	attempts integer not null default 0,
	error text,
	parked timestamptz not null default now(),
	primary key (subscription, position)
);

create index parked_stream on herald.parked (subscription, stream_number, position) where not done;

-- Makes a subscription; true if it was not there. source: {"categories", "topics", "types"}, each an
-- array, or {"category", "stream"}; {} is all. start: beginning, end or a position. options:
-- {"on_failure": "stop|park|park-stream", "max_attempts", "backoff"}. Where it is there already its
-- options and partitions are changed, and what is null or not named stays as it is; another number
-- of partitions holds as soon as all partitions have come equally far, so that nothing is lost or
-- repeated.
create function herald.subscribe(name text, source jsonb default null, partitions integer default null,
	start text default 'beginning', options jsonb default '{}')
returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
	begins bigint;
	here herald.subscription;
begin
	if jsonb_typeof(source) <> 'object'
		or source - '{categories,topics,types,category,stream}'::text[] <> '{}'
		or (source ? 'stream') <> (source ? 'category') or source ?& '{category,categories}' then
		raise exception 'a source has categories, topics and types, or category and stream: %', source
			using errcode = 'PH003';
	elsif options - '{on_failure,max_attempts,backoff}'::text[] <> '{}' then
		raise exception 'options are on_failure, max_attempts and backoff: %', options
			using errcode = 'PH003';
	end if;
	begins := case start when 'beginning' then 0 when 'end' then herald.horizon() else start::bigint end;
	insert into herald.subscription as s (name, source, categories, topics, types, stream, partitions)
	values (subscribe.name, coalesce(subscribe.source, '{}'),
		coalesce(herald.texts(source -> 'categories'), array[source ->> 'category'] || '{}'::text[]),
		herald.texts(source -> 'topics'), herald.texts(source -> 'types'), source ->> 'stream',
		coalesce(subscribe.partitions, 1))
	on conflict do nothing;
	if found then
		update herald.subscription s set categories = null
		where s.name = subscribe.name and s.categories = array[null]::text[];
		insert into herald.checkpoint (subscription, partition, position)
		select subscribe.name, i, begins from generate_series(0, coalesce(subscribe.partitions, 1) - 1) i;
		perform herald.set_options(subscribe.name, options);
		return true;
	end if;
	-- Executors that acknowledge meanwhile wait for this, and then know of the barrier. Checkpoints are
	-- locked before the subscription, here as everywhere.
	update herald.checkpoint c set served = c.served where c.subscription = subscribe.name;
	select s.* into here from herald.subscription s where s.name = subscribe.name for update;
	if here.source <> subscribe.source then
		raise exception 'subscription % has another source: %', name, here.source
			using errcode = 'PH006', hint = 'Take another name, or drop it: herald.unsubscribe,'
				' or pgherald subscribe --drop.';
	end if;
	perform herald.set_options(subscribe.name, options);
	if coalesce(here.next_partitions, here.partitions) <> subscribe.partitions then
		update herald.subscription s set next_partitions = subscribe.partitions,
			barrier = greatest(s.barrier,
				(select max(c.position) from herald.checkpoint c where c.subscription = s.name))
		where s.name = subscribe.name;
		perform herald.cross_barrier(subscribe.name);
	end if;
	return false;
end
$$;

create function herald.texts(list jsonb) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
	select case when jsonb_typeof(list) = 'array' then array(select jsonb_array_elements_text(list)) end
$$;

create function herald.set_options(name text, options jsonb) returns void
language sql set search_path = pg_catalog, pg_temp as $$
	update herald.subscription s set
		on_failure = coalesce(options ->> 'on_failure', s.on_failure),
		max_attempts = coalesce((options ->> 'max_attempts')::integer, s.max_attempts),
		backoff = coalesce((options ->> 'backoff')::interval, s.backoff)
	where s.name = set_options.name and options <> '{}'
$$;

create function herald.unsubscribe(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
	delete from herald.subscription s where s.name = unsubscribe.name;
	return found;
end
$$;

-- Takes a partition that has something to do and that nobody holds; no row when there is none. Who
-- was served longest ago comes first. Takes no transaction id when there is nothing to do.
create function herald.claim(name text, owner text, lease interval default '30 seconds')
returns table (partition integer, token bigint, "position" bigint, partitions integer)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
	last constant bigint := coalesce(pg_sequence_last_value('herald.feed_position'), 0);
begin
	if not exists (select from herald.subscription s where s.name = claim.name) then
		raise exception 'there is no subscription %', name using errcode = 'PH006';
	end if;
	if exists (select from herald.subscription s where s.name = claim.name and s.barrier is not null) then
		perform herald.cross_barrier(name);
	end if;
	return query
	with free as materialized (
		select c.subscription, c.partition, s.partitions
		from herald.checkpoint c
		join herald.subscription s on s.name = c.subscription
		where c.subscription = claim.name and not c.stopped
			and c.position < least(last, s.barrier)
			and (c.owner is null or c.lease_until < clock_timestamp())
			and (c.retry_at is null or c.retry_at <= clock_timestamp())
		order by c.served nulls first, c.partition
		limit 1
		for update of c skip locked
	)
	update herald.checkpoint c
	set owner = claim.owner, token = c.token + 1, lease = claim.lease,
		lease_until = clock_timestamp() + claim.lease, served = clock_timestamp()
	from free f
	where c.subscription = f.subscription and c.partition = f.partition
	returning c.partition, c.token, c.position, f.partitions;
end
$$;

-- For who has found nothing to do and listens on the channel that has the schema's name: says that
-- somebody sleeps, and returns for how many milliseconds that may be at most. For a subscription no
-- longer than until a lease ends or a retry is due. Without a name the feed is to be read once more
-- between this and the sleep. Takes a transaction id only where somebody has been woken since.
-- Why nobody sleeps through an event is argued in docs/store-order.md.
create function herald.sleep(name text default null, longest integer default 5000)
returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
	if pg_sequence_last_value('herald.asleep') is null then
		perform setval('herald.asleep', 1);
	end if;
	if herald.lowest_mark() is not null then
		return least(longest, 1); -- somebody is publishing, and may have looked before
	end if;
	return (
		select greatest(0, least(longest, ceil(1000 * extract(epoch from min(
			coalesce(greatest(c.retry_at, c.lease_until), clock_timestamp())) - clock_timestamp()))))
		from herald.checkpoint c
		join herald.subscription s on s.name = c.subscription
		where c.subscription = sleep.name and not c.stopped
			and c.position < least(pg_sequence_last_value('herald.feed_position'), s.barrier)
	);
end
$$;

create function herald.lost_lease(name text, partition integer) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
	raise exception 'the lease of partition % of % was lost', partition, name
		using errcode = 'PH005', hint = 'Another executor has it. Undo what was done, and claim again.';
end
$$;

-- The next of the feed that a partition wants and that are not parked; becomes a part of fetch.
create function herald.wanted(sub herald.subscription, partition integer, stream_number bigint,
	after bigint, up_to bigint, any_parked boolean, max_count integer)
returns setof herald.feed
language sql stable as $$
	select f.*
	from herald.feed f
	where f.position > after and f.position <= up_to
		and (wanted.stream_number is null or f.stream_number = wanted.stream_number)
		and (sub.categories is null or f.category = any (sub.categories))
		and (sub.topics is null or f.topic = any (sub.topics))
		and (sub.types is null or f.type = any (sub.types))
		and f.stream_number % sub.partitions = wanted.partition
		and (not any_parked or not exists (
			select from herald.parked p
			where p.subscription = sub.name and p.position = f.position
		))
	order by f.position
	limit max_count
$$;

-- The next events of a partition; everything up to "done" is acknowledged first, as by ack. Where nothing
-- of the feed is wanted the checkpoint moves on, so that nobody has to look at it again. The settings are
-- for read's reason; planning costs more than a page.
create function herald.fetch(name text, partition integer, token bigint, max_count integer default 100,
	done bigint default null)
returns setof herald.event
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
	set jit = off set enable_sort = off set enable_bitmapscan = off set enable_seqscan = off
	set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
	me constant text := name;
	mine constant integer := partition;
	fence constant bigint := token;
	window_size constant bigint := 100000; -- of the feed, for one look
	farthest constant bigint := 20 * window_size; -- so that a call comes to an end
	here herald.checkpoint;
	sub herald.subscription;
	wanted_stream bigint;
	horizon bigint;
	reached bigint;
	looked bigint;
	any_taken boolean := false;
	any_parked constant boolean := exists (select from herald.parked p where p.subscription = me);
begin
	if done is not null then
		perform herald.ack(name, partition, token, done);
	end if;
	select c.* into here from herald.checkpoint c
	where c.subscription = me and c.partition = mine and c.token = fence;
	if not found then
		perform herald.lost_lease(name, partition);
	end if;
	select s.* into sub from herald.subscription s where s.name = me;
	horizon := least(herald.horizon(here.position), sub.barrier, here.position + farthest);
	if sub.stream is not null then
		wanted_stream := coalesce((select s.number from herald.stream s
			where s.category = sub.categories[1] and s.id = sub.stream::herald.stream_id), -1);
	end if;
	reached := here.position;
	while reached < horizon loop
		looked := least(horizon, reached + window_size);
		if any_parked then -- what is behind an event that blocks its stream waits there too
			with page as (
				select f.position, f.stream_number
				from herald.wanted(sub, mine, wanted_stream, reached, looked, true, max_count) f
			), waits as (
				insert into herald.parked (subscription, position, stream_number, blocks)
				select me, f.position, f.stream_number, true
				from page f
				where exists (
					select from herald.parked p
					where p.subscription = me and p.stream_number = f.stream_number
						and p.blocks and not p.done
				)
				on conflict do nothing
			)
			select case when count(*) = max_count then max(f.position) else looked end
			into looked
			from page f;
		end if;
		return query
		select f.position, f.category, f.stream::text, e.version, e.id, e.type, e.data,
			coalesce(e.metadata, '{}'), e.topic, e.time
		from herald.wanted(sub, mine, wanted_stream, reached, looked, any_parked, max_count) f
		join herald.entry e on e.id = f.event
		order by f.position;
		any_taken := found;
		exit when any_taken;
		reached := looked;
	end loop;
	if not any_taken and reached >= sub.barrier then
		perform herald.ack(name, partition, token, greatest(reached, here.position));
		perform herald.release(name, partition, token); -- the partitions are about to change
	elsif not any_taken and reached > here.position then
		perform herald.ack(name, partition, token, reached);
	elsif here.lease_until < clock_timestamp() + here.lease / 2 then
		perform herald.renew(name, partition, token);
	end if;
end
$$;

-- Everything up to a position of this partition is done. In the handler's transaction.
create function herald.ack(name text, partition integer, token bigint, "position" bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
	old bigint;
begin
	update herald.checkpoint c
	set position = ack.position, lease_until = clock_timestamp() + c.lease, attempts = 0,
		failed_position = null, retry_at = null, error = null
	where c.subscription = ack.name and c.partition = ack.partition and c.token = ack.token
		and c.position <= ack.position;
	if not found then
		select c.position into old from herald.checkpoint c
		where c.subscription = ack.name and c.partition = ack.partition and c.token = ack.token;
		if not found then
			perform herald.lost_lease(name, partition);
		end if;
		raise exception 'position % is done already; % is at %', ack.position, name, old
			using errcode = 'PH003';
	end if;
	delete from herald.parked p
	using herald.subscription s
	where p.subscription = ack.name and s.name = ack.name and p.done and p.position <= ack.position
		and p.stream_number % s.partitions = ack.partition;
	-- Events that were fetched before there was a barrier may move it.
	update herald.subscription s set barrier = ack.position
	where s.name = ack.name and s.barrier < ack.position;
end
$$;

-- Once all partitions have come to the barrier, and nobody has events of one in hand, there may be
-- another number of them. While somebody is at work on one this does nothing, and does not wait.
create function herald.cross_barrier(name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
	here herald.subscription;
	last_token bigint;
begin
	perform from herald.checkpoint c where c.subscription = cross_barrier.name for update skip locked;
	get diagnostics last_token = row_count;
	select s.* into here from herald.subscription s where s.name = cross_barrier.name for update;
	if here.barrier is null or last_token < here.partitions or exists (
		select from herald.checkpoint c
		where c.subscription = cross_barrier.name and (c.position < here.barrier
			or c.owner is not null and c.lease_until > clock_timestamp())
	) then
		return;
	end if;
	select max(c.token) into last_token
	from herald.checkpoint c where c.subscription = cross_barrier.name;
	delete from herald.checkpoint c where c.subscription = cross_barrier.name;
	insert into herald.checkpoint (subscription, partition, position, token)
	select cross_barrier.name, i, here.barrier, last_token + 1
	from generate_series(0, here.next_partitions - 1) i;
	update herald.subscription s
	set partitions = s.next_partitions, next_partitions = null, barrier = null
	where s.name = cross_barrier.name;
	perform herald.wake();
end
$$;

-- Holds the lease of a partition for as long again.
create function herald.renew(name text, partition integer, token bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
	update herald.checkpoint c set lease_until = clock_timestamp() + c.lease
	where c.subscription = renew.name and c.partition = renew.partition and c.token = renew.token;
	if not found then
		perform herald.lost_lease(name, partition);
	end if;
end
$$;

-- Gives a partition back; who sleeps may have it if there is more to do. It is no error if it was lost
-- meanwhile.
create function herald.release(name text, partition integer, token bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
	done bigint;
begin
	update herald.checkpoint c set owner = null, lease_until = null, token = c.token + 1
	where c.subscription = release.name and c.partition = release.partition and c.token = release.token
	returning c.position into done;
	if done < pg_sequence_last_value('herald.feed_position') then
		perform herald.wake();
	end if;
end
$$;

-- The handler failed at this event; all before it are done. Says what comes next: "retry" after a
-- while (the partition is given back), "stopped" until herald.resume, or "parked": go on behind it.
create function herald.fail(name text, partition integer, token bigint, "position" bigint, error text)
returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
	here herald.checkpoint;
	sub herald.subscription;
	tried integer;
begin
	select c.* into here from herald.checkpoint c
	where c.subscription = fail.name and c.partition = fail.partition and c.token = fail.token
	for no key update;
	if not found then
		perform herald.lost_lease(name, partition);
	end if;
	select s.* into sub from herald.subscription s where s.name = fail.name;
	tried := case when here.failed_position = fail.position then here.attempts else 0 end + 1;
	if tried >= sub.max_attempts and sub.on_failure <> 'stop' then
		insert into herald.parked (subscription, position, stream_number, blocks, attempts, error)
		select fail.name, f.position, f.stream_number, sub.on_failure = 'park-stream', tried, fail.error
		from herald.feed f
		where f.position = fail.position;
		perform herald.ack(name, partition, token, fail.position);
		return 'parked';
	end if;
	update herald.checkpoint c
	set failed_position = fail.position, attempts = tried, error = fail.error, owner = null,
		lease_until = null, token = c.token + 1, stopped = tried >= sub.max_attempts,
		retry_at = clock_timestamp() + least(sub.backoff * 2 ^ (tried - 1), interval '1 hour')
	where c.subscription = fail.name and c.partition = fail.partition;
	return case when tried >= sub.max_attempts then 'stopped' else 'retry' end;
end
$$;

-- Lets partitions that have stopped try again.
create function herald.resume(name text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
	n bigint;
begin
	update herald.checkpoint c set stopped = false, attempts = 0, retry_at = null
	where c.subscription = resume.name and (c.stopped or c.retry_at is not null);
	get diagnostics n = row_count;
	perform herald.wake();
	return n;
end
$$;

-- The first parked event that nobody else is at; it is held until the end of the transaction, in
-- which herald.parked_done says that it was handled. Of a blocked stream only the first one.
create function herald.parked_next(name text) returns setof herald.event
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
	found_position bigint;
begin
	select p.position into found_position
	from herald.parked p
	where p.subscription = parked_next.name and not p.done and not (p.blocks and exists (
		select from herald.parked earlier
		where earlier.subscription = p.subscription and earlier.stream_number = p.stream_number
			and not earlier.done and earlier.position < p.position
	))
	order by p.position
	limit 1
	for update skip locked;
	return query select e.* from herald.event e where e.position = found_position;
end
$$;

-- A parked event was handled, or shall be dropped.
create function herald.parked_done(name text, "position" bigint) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
	update herald.parked p set done = true
	where p.subscription = parked_done.name and p.position = parked_done.position and not p.done;
	if not found then
		return false;
	end if;
	delete from herald.parked p
	using herald.subscription s, herald.checkpoint c
	where p.subscription = parked_done.name and p.position = parked_done.position
		and s.name = p.subscription and c.subscription = s.name
		and c.partition = p.stream_number % s.partitions and c.position >= p.position;
	return true;
end
$$;

-- How far each partition is. behind counts positions, of which not all need be wanted; waiting is the
-- age of the first event behind the checkpoint.
create view herald.lag as
select c.subscription, c.partition, c.position, greatest(l.last - c.position, 0) as behind,
	now() - e.time as waiting, c.owner, c.lease_until, c.stopped, c.attempts, c.error,
	(select count(*) from herald.parked p where p.subscription = c.subscription and not p.done
		and p.stream_number % s.partitions = c.partition) as parked
from herald.checkpoint c
join herald.subscription s on s.name = c.subscription
cross join (select coalesce(max(f.position), 0) as last from herald.feed f) l
left join lateral (
	select f.event from herald.feed f where f.position > c.position
	order by f.position limit 1
) n on true
left join herald.entry e on e.id = n.event;

revoke all on all functions in schema herald from public;

call herald.allow('herald_reader', 'subscribe', 'unsubscribe', 'claim', 'sleep', 'fetch', 'ack',
	'renew', 'release', 'fail', 'resume', 'parked_next', 'parked_done');

do $$
begin
	if to_regrole('herald_reader') is not null then
		grant select on herald.lag, herald.parked to herald_reader;
	end if;
end
$$;

insert into herald.migration (number, name) values (2, 'subscriptions');
