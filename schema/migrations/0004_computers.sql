-- Computers: streams of their own (kind), their rows, commands, snapshots and published ports.

alter table stream add column kind text not null default 'session' check (kind in ('session', 'computer'));

drop index stream_claimable;

-- The one index that finds work: waiting input, abandoned turns, and whatever falls due.
create index stream_claimable on stream (due_at)
  where kind = 'session' and (due_at is not null or status in ('queued', 'running'));

-- What a node has to look after: computers that are not gone, by the machine that has their files.
create index stream_computers on stream (id) where kind = 'computer' and status not in ('error', 'deleted');

-- Where a node keeps computers; outlives its restarts.
alter table node add column machine text not null default '';

-- What was written of a session's computer stands in the session's log, from which its own stream is begun at its next wake.
drop table computer;

create table computer (
  id text primary key references stream,
  org text not null references org,
  session_id text references stream,
  name text not null,
  template_id text not null,
  created_at timestamptz not null default clock_timestamp(),
  deleted_at timestamptz
);

create unique index computer_name on computer (org, name) where deleted_at is null;

create unique index computer_session on computer (session_id) where deleted_at is null;

create index computer_list on computer (org, id desc);

-- The history of commands, without what they said.
create table command (
  id text primary key,
  org text not null references org,
  computer_id text not null references computer,
  source text not null,
  status text not null,
  node text not null,
  timeout_ms int not null,
  started_at timestamptz not null,
  ended_at timestamptz,
  exit_code int,
  stdout_bytes bigint not null default 0,
  stderr_bytes bigint not null default 0,
  error_type text
);

create index command_list on command (computer_id, id desc);

create index command_running on command (node) where status = 'running';

create index command_age on command (started_at);

create table snapshot (
  id text primary key,
  org text not null references org,
  computer_id text not null references computer,
  name text,
  blob text not null,
  spec json not null,
  bytes bigint not null default 0,
  -- False while its blob is being written: what stays so is of a node that ended, and is removed.
  ready boolean not null default false,
  created_at timestamptz not null default clock_timestamp()
);

create index snapshot_list on snapshot (org, id desc);

create table published_port (
  id text primary key,
  org text not null references org,
  computer_id text not null references computer,
  port int not null,
  created_at timestamptz not null default clock_timestamp(),
  unique (computer_id, port)
);

grant select, insert, update, delete on computer, command, snapshot, published_port to overwinter_runtime;
