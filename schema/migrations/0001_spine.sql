-- The spine: orgs and keys, agents, the log (stream, event, blob), sessions, computers, nodes.
-- Statements end in a semicolon at the end of a line and are followed by an empty line.

create table setting (
  name text primary key,
  value text not null
);

create table org (
  id text primary key,
  name text not null,
  created_at timestamptz not null default clock_timestamp()
);

create table api_key (
  id text primary key,
  org text not null references org,
  name text not null,
  public_id text not null unique,
  digest bytea not null,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz
);

create table credential (
  id text primary key,
  org text not null references org,
  provider text not null,
  name text,
  last4 text not null,
  sealed text not null,
  is_default boolean not null default false,
  created_at timestamptz not null default clock_timestamp()
);

create unique index credential_default on credential (org, provider) where is_default;

create table agent (
  id text primary key,
  org text not null references org,
  name text not null,
  runtime text not null,
  prompt text not null,
  prompt_hash text not null,
  model text not null,
  revision int not null,
  credential_id text,
  limits json,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  unique (org, name)
);

create table revision (
  id text primary key,
  org text not null references org,
  agent_id text not null references agent,
  number int not null,
  digest text not null,
  prompt text not null,
  model text not null,
  created_at timestamptz not null default clock_timestamp(),
  unique (agent_id, number)
);

create table stream (
  id text primary key,
  org text not null references org,
  head bigint not null default 0,
  hash bytea not null default ''::bytea,
  last_ts timestamptz,
  status text not null default 'idle',
  state json,
  state_seq bigint not null default 0,
  last_turn json,
  usage json,
  due_at timestamptz,
  prefers_node text,
  epoch bigint not null default 0,
  lease_node text,
  lease_at timestamptz,
  forked_from text,
  deleted_at timestamptz
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- The one index that finds work: waiting input, abandoned turns, and whatever falls due.
create index stream_claimable on stream (due_at)
  where due_at is not null or status in ('queued', 'running');

create table session (
  id text primary key references stream,
  org text not null references org,
  agent_id text not null,
  key text,
  credential_id text,
  snapshot json not null,
  limits json,
  metadata json,
  created_at timestamptz not null default clock_timestamp()
);

create unique index session_key on session (org, key) where key is not null;

create index session_list on session (org, id desc);

create table event (
  stream text not null,
  seq bigint not null,
  id text not null,
  org text not null,
  type text not null,
  level text not null,
  turn_id text,
  epoch bigint,
  actor json not null,
  source text,
  refs json,
  idempotency_key text,
  ts timestamptz not null,
  xid xid8 not null default pg_current_xact_id(),
  body json,
  body_bytes int not null,
  content_ref text,
  hash bytea not null,
  primary key (stream, seq)
);

create index event_idempotency on event (stream, idempotency_key) where idempotency_key is not null;

create index event_turns on event (stream, seq) where type in ('turn.started', 'turn.attempted', 'turn.completed');

create table blob (
  stream text not null,
  seq bigint not null,
  body text not null,
  primary key (stream, seq)
);

create table idempotency (
  org text not null references org,
  route text not null,
  key text not null,
  body_sha256 bytea not null,
  resource text not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (org, route, key)
);

create table client_token (
  id text primary key,
  org text not null references org,
  session_id text not null references stream,
  digest bytea not null unique,
  scopes text[] not null,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null,
  revoked_at timestamptz
);

create table node (
  id text primary key,
  started_at timestamptz not null default clock_timestamp(),
  alive_until timestamptz not null
);

create table computer (
  id text primary key,
  org text not null references org,
  session_id text references stream,
  driver text not null,
  reference json,
  state text not null,
  node text,
  generation int not null default 0,
  snapshot_ref text,
  epoch bigint not null default 0,
  due_at timestamptz,
  created_at timestamptz not null default clock_timestamp()
);

create unique index computer_session on computer (session_id);

-- Roles belong to the whole cluster: another database may be making it at this moment.
do $$ begin
  create role overwinter_runtime;
exception when duplicate_object or unique_violation then
  null;
end $$;

grant overwinter_runtime to current_user;

grant select, insert, update, delete on
  setting, org, api_key, credential, agent, revision, stream, session, idempotency, client_token, node, computer
  to overwinter_runtime;

grant select, insert on event, blob to overwinter_runtime;
