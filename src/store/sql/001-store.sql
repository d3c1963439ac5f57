-- pgherald's event store, for PostgreSQL 13 and later: streams, events, the feed.
--
-- psql can run this file as it is; "herald" at the beginning of a word is the name of the schema and
-- of its roles (herald_writer, herald_reader), so another name is:
--
--     sed 's/\bherald/audit/g' 001-store.sql | psql -1 -f -
--
-- pgherald store init does the same, once for each file, in order. Ids of streams are text, or uuids
-- where the session says so first: set pgherald.stream_id_type = 'uuid'.
--
-- Why the order is right is argued in docs/store-order.md; tests/model/feed.pml is its model.

create schema herald;

comment on schema herald is 'pgherald''s event store';

create table herald.migration (
	number integer primary key,
	name text not null,
	applied timestamptz not null default now()
);

do $$
begin
	execute format('create domain herald.stream_id as %s',
		case coalesce(current_setting('pgherald.stream_id_type', true), '')
			when 'uuid' then 'uuid'
			else 'text collate "C"'
		end);
end
$$;

-- A stream's row is its lock: who appends updates it first and holds it until the end of the
-- transaction. It is never deleted, so that neither a number nor a version is ever used again.
create table herald.stream (
	number bigint generated always as identity primary key,
	category text collate "C" not null,
	id herald.stream_id not null,
	version bigint not null, -- of the last event, as are
	event uuid not null,     -- its id and
	type text not null,      -- these, which publish would have to look up
	topic text,
	deleted boolean not null default false,
	unique (category, id)
) with (fillfactor = 80); -- room for the next version on the same page: no index is touched

-- What append has to check it checks itself: a check constraint here costs each append 3 %.
create table herald.entry (
	stream_number bigint not null,
	version bigint not null,
	time timestamptz not null default clock_timestamp(),
	id uuid not null,
	redacted boolean not null default false,
	type text not null,
	topic text,
	data jsonb not null,
	metadata jsonb,
	primary key (stream_number, version),
	constraint entry_id_key unique (id)
);

-- Positions are drawn just before commit. CACHE must stay 1 and a position must fit 48 bits.
create sequence herald.feed_position as bigint maxvalue 281474976710655 cache 1 no cycle;

-- The one order of all committed events. It repeats what subscriptions ask for, so that they can be
-- served from this narrow table alone.
create table herald.feed (
	position bigint primary key,
	event uuid not null, -- the entry's id: close to each other here, close to each other in its index
	stream_number bigint not null,
	category text collate "C" not null,
	stream herald.stream_id not null, -- without it each event read would be one more look-up
	type text not null,
	topic text,
	constraint feed_event_key unique (event)
);

alter sequence herald.feed_position owned by herald.feed.position;

-- All committed events. Order and page by herald.read only: the latest of these may still be followed
-- by smaller positions.
create view herald.event as
select f.position, f.category, f.stream::text as stream, e.version, e.id, e.type, e.data,
	coalesce(e.metadata, '{}') as metadata, e.topic, e.time
from herald.feed f
join herald.entry e on e.id = f.event;

-- Marks: advisory locks with one 64-bit key. The upper 16 bits tell this store: 7 and 12 bits out of
-- the schema's name, so that another store of the database does not hold this one up. The lower 48
-- bits are a value of the sequence.
create function herald.mark_tag() returns bigint
language sql immutable as $$
	select 28672::bigint operator(pg_catalog.+)
		(pg_catalog.hashtext('herald') operator(pg_catalog.&) 4095)::bigint
$$;

-- A sequence that counts nothing: "was called" says that somebody sleeps until there are events. It is
-- true for all at once, whatever commits or rolls back, and to look costs next to nothing.
create sequence herald.asleep as smallint;

-- Wakes those who sleep: one notification, at the commit of this transaction, on the channel that has
-- the name of the schema; so it is sent once, however many append while they wake up. It is never the
-- reason that a transaction fails: none is sent where the transaction is about to be prepared (which
-- only the statement's text tells; there is none where a driver's message ends the transaction), or
-- where the queue is filling up.
create function herald.wake() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
	if pg_sequence_last_value('herald.asleep') is not null
		and (current_setting('max_prepared_transactions') = '0'
			or coalesce(current_query(), '') !~* '\mprepare\M.*\mtransaction\M') -- also in comments: better none
		and pg_notification_queue_usage() < 0.5 then
		perform setval('herald.asleep', 1, false);
		perform pg_notify('herald', '');
	end if;
end
$$;

-- Gives the events that a transaction has appended to a stream their positions, just before commit.
-- The mark comes first: every position that this transaction draws is above the mark's value.
-- A transaction takes one mark again and again, however many streams it appends to: its setting only
-- saves the number of locks. Who forges the setting can get a lower mark, never a higher one or none.
-- What the transaction wrote first (cmin 0) has a mark of its own: to most it is all they append, and
-- a setting costs more than a lock.
--
-- This and append run for every event, and to set a search_path costs a fifth of an append: here each
-- name is written in full instead, operators too, so that none of a caller's can take its place.
create function herald.publish() returns trigger
language plpgsql security definer as $$
declare
	setting pg_catalog.text;
	said pg_catalog.text;
	mark bigint := coalesce(pg_catalog.pg_sequence_last_value('herald.feed_position'), 0::bigint);
begin
	if not new.cmin operator(pg_catalog.=) '0'::pg_catalog.cid then
		setting := 'pgherald.mark_'::pg_catalog.text operator(pg_catalog.||) herald.mark_tag()::pg_catalog.text;
		said := pg_catalog.current_setting(setting, true);
		if said operator(pg_catalog.<>) ''::pg_catalog.text
			and said operator(pg_catalog.~) '^[0-9]{1,15}$'::pg_catalog.text
			and said::bigint operator(pg_catalog.<=) mark then
			mark := said;
		else
			said := pg_catalog.set_config(setting, mark::pg_catalog.text, true);
		end if;
	end if;
	said := pg_catalog.pg_advisory_xact_lock_shared( -- an assignment costs less than perform
		(herald.mark_tag() operator(pg_catalog.<<) 48) operator(pg_catalog.|) mark);
	if pg_catalog.pg_sequence_last_value('herald.asleep') is not null then -- after the mark
		perform herald.wake();
	end if;
	if new.version operator(pg_catalog.=) (coalesce(old.version, -1::bigint) operator(pg_catalog.+) 1::bigint) then
		insert into herald.feed (position, event, stream_number, category, stream, type, topic)
		values (pg_catalog.nextval('herald.feed_position'), new.event, new.number, new.category, new.id,
			new.type, new.topic);
		return null;
	end if;
	insert into herald.feed (position, event, stream_number, category, stream, type, topic)
	select pg_catalog.nextval('herald.feed_position'), e.*
	from (
		select e.id, e.stream_number, new.category, new.id, e.type, e.topic
		from herald.entry e
		where e.stream_number operator(pg_catalog.=) new.number
			and e.version operator(pg_catalog.>) coalesce(old.version, -1::bigint)
			and e.version operator(pg_catalog.<=) new.version
		order by e.version
	) e;
	return null;
end
$$;

-- Without WHEN, which would be parsed for each append: who writes a version always writes a higher one.
create constraint trigger publish_new after insert on herald.stream
	deferrable initially deferred for each row execute function herald.publish();

create constraint trigger publish_next after update of version on herald.stream
	deferrable initially deferred for each row execute function herald.publish();

-- Also where session_replication_role says "replica": an event without a position is never read.
alter table herald.stream enable always trigger publish_new;
alter table herald.stream enable always trigger publish_next;

-- The lowest of the marks that transactions hold now; null: none is publishing.
create function herald.lowest_mark() returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
	return (
		select min((l.classid::bigint & 65535) << 32 | l.objid::bigint)
		from pg_lock_status() l
		where l.locktype = 'advisory' and l.objsubid = 1
			and l.classid::bigint >> 16 = herald.mark_tag()
			and l.database = (select d.oid from pg_database d where d.datname = current_database())
	);
end
$$;

-- The highest position that a LATER snapshot may read up to: nothing at or below it can still
-- appear. The sequence is read before the marks are listed; both are true now, not as of a snapshot.
-- Only for functions that read in a statement after this one, at READ COMMITTED. To list the marks is
-- most of the work, more so in a server that allows many connections. They are not needed where nothing
-- can be after the position that is asked about, nor where all that can be seen behind it has no gap.
create function herald.horizon(after bigint default null) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
	last bigint;
	seen bigint;
	newest bigint;
begin
	if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
		raise exception 'the feed cannot be read at isolation level %',
			upper(current_setting('transaction_isolation'))
			using errcode = 'PH004', hint = 'Read it at READ COMMITTED: one snapshot for a whole'
				' transaction cannot tell which events are still to come.';
	elsif pg_is_in_recovery() then
		raise exception 'the feed cannot be read on a standby'
			using errcode = 'PH004', hint = 'Events in flight are known to the primary only.';
	end if;
	last := coalesce(pg_sequence_last_value('herald.feed_position'), 0);
	if last <= after then
		return last;
	elsif last - after <= 500 then
		select count(*), max(f.position) into seen, newest
		from herald.feed f where f.position > after and f.position <= last;
		if newest = after + seen then
			return newest;
		end if;
	end if;
	return least(last, herald.lowest_mark());
end
$$;

-- An id for an event that has none: version 7 of RFC 9562, the time in milliseconds and then chance,
-- so that the index grows at its end. Names are in full because it becomes a part of append.
create function herald.make_id() returns uuid
language sql volatile as $$
	select pg_catalog.overlay(pg_catalog.gen_random_uuid()::pg_catalog.text,
		pg_catalog.lpad(pg_catalog.to_hex((pg_catalog.date_part('epoch'::pg_catalog.text,
			pg_catalog.clock_timestamp()) operator(pg_catalog.*) 1000::pg_catalog.float8)::pg_catalog.int8),
			12, '0'::pg_catalog.text) operator(pg_catalog.||) '-7'::pg_catalog.text, 1, 15)::pg_catalog.uuid
$$;

create type herald.appended as (first_version bigint, last_version bigint, duplicate boolean);

-- Adds events to the end of a stream. An event is {"type", "data", "metadata", "id", "topic"}; only the
-- type is required. expected: the version that the stream must have now, -1: it must not exist, null:
-- any. Appending the same ids to the same place again succeeds and says so (duplicate).
-- The stream's row and several events are always written by one statement: the trigger must find the
-- events even where SET CONSTRAINTS ALL IMMEDIATE has made it run at the end of that statement.
-- SQLSTATEs: PH001 the stream has another version (detail: {"expected", "actual"}), PH002 an id is in
-- use (23505 while the other use is not committed yet), PH003 the events cannot be understood, PH007 the stream was deleted.
create function herald.append(category text, stream text, events jsonb, expected bigint default null)
returns herald.appended
language plpgsql security definer as $$
declare
	event_type constant pg_catalog.text := events operator(pg_catalog.->>) 'type'::pg_catalog.text;
	event_topic constant pg_catalog.text := events operator(pg_catalog.->>) 'topic'::pg_catalog.text;
	event_id pg_catalog.uuid;
	number bigint;
	done herald.appended;
begin
	-- The usual case: one event, an id of ours, a stream that exists.
	if event_type operator(pg_catalog.<>) ''::pg_catalog.text
		and pg_catalog.jsonb_typeof(events) operator(pg_catalog.=) 'object'::pg_catalog.text
		and (events operator(pg_catalog.-) '{type,data,metadata,topic}'::pg_catalog.text[])
			operator(pg_catalog.=) '{}'::pg_catalog.jsonb then
		event_id := herald.make_id();
		update herald.stream as s
		set version = s.version operator(pg_catalog.+) 1::bigint, event = event_id, type = event_type,
			topic = event_topic
		where s.category operator(pg_catalog.=) append.category
			and s.id operator(pg_catalog.=) append.stream::herald.stream_id and not s.deleted
			and (expected is null or s.version operator(pg_catalog.=) expected)
		returning s.number, s.version into number, done.last_version;
		if found then
			insert into herald.entry (stream_number, version, id, type, data, metadata, topic)
			values (number, done.last_version, event_id, event_type,
				coalesce(events operator(pg_catalog.->) 'data'::pg_catalog.text, '{}'::pg_catalog.jsonb),
				events operator(pg_catalog.->) 'metadata'::pg_catalog.text, event_topic);
			done.first_version := done.last_version;
			done.duplicate := false;
			return done;
		end if;
	end if;
	return herald.append_any(category, stream, events, expected);
end
$$;

-- The same for whatever else: several events, given ids, new streams, conflicts.
create function herald.append_any(category text, stream text, events jsonb, expected bigint)
returns herald.appended
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
	wanted constant herald.stream_id := stream;
	-- The ids of these events, where they have none, differ in their last digits: chance costs much.
	alike constant text := left(herald.make_id()::text, -8);
	n integer;
	with_ids boolean;
	last_id uuid;
	wrong text;
	found_stream record;
	known bigint;
begin
	if jsonb_typeof(events) = 'object' then
		events := jsonb_build_array(events);
	elsif jsonb_typeof(events) is distinct from 'array' then
		raise exception 'events must be a JSON object or an array of objects' using errcode = 'PH003';
	end if;
	select count(*), coalesce(bool_or(e ->> 'id' is not null), false),
		min(format('event %s is no object with a type and with nothing but type, data, metadata, id and topic',
			at)) filter (where case jsonb_typeof(e) when 'object'
				then coalesce(e ->> 'type', '') = '' or e - '{type,data,metadata,id,topic}'::text[] <> '{}'
				else true end)
	into n, with_ids, wrong
	from jsonb_array_elements(events) with ordinality a (e, at);
	if wrong is not null then
		raise exception '%', wrong using errcode = 'PH003';
	elsif coalesce(category, '') = '' or coalesce(stream, '') = '' then
		raise exception 'category and stream must not be empty' using errcode = 'PH003';
	end if;
	last_id := coalesce(events -> -1 ->> 'id', alike || lpad(to_hex(n), 8, '0'));

	-- The lock. Whoever is appending to this stream now is waited for, so what follows sees it.
	loop
		select s.number, s.version, s.deleted into found_stream
		from herald.stream s
		where s.category = append_any.category and s.id = wanted
		for no key update;
		exit when found;
		if expected >= 0 then
			perform herald.conflict(category, stream, expected, -1);
		elsif n = 0 then
			return (null::bigint, -1::bigint, false);
		elsif with_ids then
			perform herald.find_duplicate(null, events);
		end if;
		with s as (
			insert into herald.stream as s (category, id, version, event, type, topic)
			values (append_any.category, wanted, n - 1, last_id, events -> -1 ->> 'type',
				events -> -1 ->> 'topic')
			on conflict do nothing
			returning s.number
		)
		insert into herald.entry (stream_number, version, id, type, data, metadata, topic)
		select s.number, at - 1, coalesce(e ->> 'id', alike || lpad(to_hex(at), 8, '0'))::uuid, e ->> 'type',
			coalesce(e -> 'data', '{}'), e -> 'metadata', e ->> 'topic'
		from s, jsonb_array_elements(events) with ordinality a (e, at);
		if found then
			return (0::bigint, n - 1::bigint, false);
		end if;
	end loop;

	if with_ids then
		known := herald.find_duplicate(found_stream.number, events);
		if known is not null then
			if expected is not null and expected <> known - 1 then
				raise exception 'these events are at version % of %/% already',
					known, category, stream using errcode = 'PH002';
			end if;
			return (known, known + n - 1, true);
		end if;
	end if;

	if found_stream.deleted then
		raise exception 'stream %/% was deleted', category, stream using errcode = 'PH007';
	elsif found_stream.version <> expected then
		perform herald.conflict(category, stream, expected, found_stream.version);
	elsif n > 0 then
		with s as (
			update herald.stream as s
			set version = s.version + n, event = last_id, type = events -> -1 ->> 'type',
				topic = events -> -1 ->> 'topic'
			where s.number = found_stream.number
			returning s.number
		)
		insert into herald.entry (stream_number, version, id, type, data, metadata, topic)
		select s.number, found_stream.version + at, coalesce(e ->> 'id', alike || lpad(to_hex(at), 8, '0'))::uuid,
			e ->> 'type', coalesce(e -> 'data', '{}'), e -> 'metadata', e ->> 'topic'
		from s, jsonb_array_elements(events) with ordinality a (e, at);
	end if;
	return (case when n > 0 then found_stream.version + 1 end, found_stream.version + n, false);
end
$$;

create function herald.conflict(category text, stream text, expected bigint, actual bigint)
returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
	raise exception 'stream %/% %, but %', category, stream,
		case when expected < 0 then 'must not exist' else 'must be at version ' || expected end,
		case when actual < 0 then 'it does not exist' else 'it is at version ' || actual end
		using errcode = 'PH001', hint = 'Load the stream again and decide anew.',
			detail = jsonb_build_object('expected', expected, 'actual', actual)::text;
end
$$;

-- The version at which these events are in the stream already, in this order; null when none of
-- their ids is in use. Anything else is an error. An event without an id is the one at its place, if
-- that says the same. The caller holds the stream's lock.
create function herald.find_duplicate(number bigint, events jsonb) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
	known bigint;
	first bigint;
	one record;
begin
	select count(*), min(x.version - at) + 1 into known, first
	from jsonb_array_elements(events) with ordinality a (e, at)
	join herald.entry x on x.id = (e ->> 'id')::uuid;
	if known = 0 then
		return null;
	elsif jsonb_array_length(events) = (
		select count(*)
		from jsonb_array_elements(events) with ordinality a (e, at)
		join herald.entry x on x.stream_number = find_duplicate.number and x.version = first + at - 1
		where x.id = coalesce((e ->> 'id')::uuid, x.id) and x.type = e ->> 'type'
			and (x.redacted or x.data = coalesce(e -> 'data', '{}'))
	) then
		return first;
	end if;
	select x.id, x.version, s.category, s.id as stream into one
	from jsonb_array_elements(events) e
	join herald.entry x on x.id = (e ->> 'id')::uuid
	join herald.stream s on s.number = x.stream_number
	order by x.version
	limit 1;
	raise exception 'id % is in use, at version % of %/%', one.id, one.version, one.category, one.stream
		using errcode = 'PH002', hint = 'An id belongs to one event; repeat an append with all of its'
			' events unchanged, or give new events new ids.';
end
$$;

-- Appends events of any streams in their order, in bulk: each also has "category", "stream" and, if it
-- matters, "expected", or takes the defaults. Keys of events that have been read are left out. Events
-- of one stream that follow each other are one append.
create function herald.append_many(events jsonb, category text default null, stream text default null,
	out appended bigint, out duplicates bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
	part record;
	done record;
begin
	appended := 0;
	duplicates := 0;
	for part in
		select g.category, g.stream, count(*) as n, min(g.expected) as expected,
			case when count(*) = 1 then min(g.event::text)::jsonb else jsonb_agg(g.event order by g.at) end as events
		from (
			select l.*, sum(l.starts) over (order by l.at) as part
			from (
				select a.at, i.category, i.stream, (a.e ->> 'expected')::bigint as expected,
					a.e - '{category,stream,expected,position,version,time}'::text[] as event,
					case when a.e ->> 'expected' is null
						and i.category = lag(i.category) over (order by a.at)
						and i.stream = lag(i.stream) over (order by a.at) then 0 else 1 end as starts
				from jsonb_array_elements(events) with ordinality a (e, at)
				cross join lateral (
					select coalesce(a.e ->> 'category', append_many.category) as category,
						coalesce(a.e ->> 'stream', append_many.stream) as stream
				) i
			) l
		) g
		group by g.part, g.category, g.stream
		order by g.part
	loop
		done := herald.append(part.category, part.stream, part.events, part.expected);
		if done.duplicate then
			duplicates := duplicates + part.n;
		else
			appended := appended + part.n;
		end if;
	end loop;
end
$$;

-- The version of a stream's last event; -1 when there is no such stream.
create function herald.stream_version(category text, stream text) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
	wanted constant herald.stream_id := stream_version.stream;
begin
	return coalesce((select s.version from herald.stream s
		where s.category = stream_version.category and s.id = wanted), -1);
end
$$;

-- The events of one stream, both ends included, also those that this transaction has not committed
-- yet; these have no position.
create function herald.read_stream(category text, stream text, from_version bigint default 0,
	to_version bigint default null, max_count integer default 1000, backward boolean default false)
returns setof herald.event
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set jit = off as $$
declare
	wanted constant herald.stream_id := read_stream.stream;
	number constant bigint := (select s.number from herald.stream s
		where s.category = read_stream.category and s.id = wanted);
begin
	if not backward then
		return query
		select f.position, read_stream.category, wanted::text, e.version, e.id, e.type, e.data,
			coalesce(e.metadata, '{}'), e.topic, e.time
		from herald.entry e
		left join lateral (
			select f.position from herald.feed f where f.event = e.id limit 1
		) f on true
		where e.stream_number = number and e.version >= from_version
			and e.version <= coalesce(to_version, 9223372036854775807)
		order by e.version
		limit max_count;
	else
		return query
		select f.position, read_stream.category, wanted::text, e.version, e.id, e.type, e.data,
			coalesce(e.metadata, '{}'), e.topic, e.time
		from herald.entry e
		left join lateral (
			select f.position from herald.feed f where f.event = e.id limit 1
		) f on true
		where e.stream_number = number and e.version >= from_version
			and e.version <= coalesce(to_version, 9223372036854775807)
		order by e.version desc
		limit max_count;
	end if;
end
$$;

-- A page of the feed: events after a position, in order. The last position of a page is where the
-- next begins. Nothing at or below a position that was returned can appear later.
-- The settings keep the plan, whatever the statistics say: the feed in its order, a look-up for each
-- event.
create function herald.read(after bigint default 0, max_count integer default 1000,
	categories text[] default null, topics text[] default null, types text[] default null)
returns setof herald.event
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
	set jit = off set enable_sort = off set enable_bitmapscan = off set enable_seqscan = off
	set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
	horizon constant bigint := herald.horizon(after);
begin
	if horizon <= after then
		return;
	end if;
	return query
	select f.position, f.category, f.stream::text, e.version, e.id, e.type, e.data,
		coalesce(e.metadata, '{}'), e.topic, e.time
	from (
		select f.*
		from herald.feed f
		where f.position > after and f.position <= horizon
			and (categories is null or f.category = any (categories))
			and (topics is null or f.topic = any (topics))
			and (types is null or f.type = any (types))
		order by f.position
		limit max_count
	) f
	join herald.entry e on e.id = f.event
	order by f.position;
end
$$;

-- Rights. All work is done by the functions, with their owner's rights; nobody else can touch a
-- table. Without the right to make roles the owner alone has a store, and may grant what it likes.
revoke all on all functions in schema herald from public;

do $$
begin
	if to_regrole('herald_writer') is null then
		create role herald_writer;
	end if;
	if to_regrole('herald_reader') is null then
		create role herald_reader;
	end if;
exception when insufficient_privilege then
	raise warning 'herald_writer and herald_reader were not made: %', sqlerrm;
end
$$;

create procedure herald.allow(role text, variadic functions text[])
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
	name text;
begin
	if to_regrole(role) is null then
		return;
	end if;
	execute format('grant usage on schema herald to %I', role);
	foreach name in array functions loop
		execute format('grant execute on function herald.%I to %I', name, role);
	end loop;
end
$$;

revoke all on procedure herald.allow from public;

call herald.allow('herald_writer', 'append', 'append_many', 'read_stream', 'stream_version');
call herald.allow('herald_reader', 'read', 'read_stream', 'stream_version', 'horizon');

do $$
begin
	if to_regrole('herald_reader') is not null then
		grant select on herald.event, herald.feed_position to herald_reader;
	end if;
end
$$;

insert into herald.migration (number, name) values (1, 'store');
