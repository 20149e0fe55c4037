-- Webhooks: where events go (destination), what is owed (delivery), and how each receiver fares (endpoint).

-- One row for each (org, URL origin): its circuit breaker.
create table endpoint (
  org text not null references org,
  origin text not null,
  failures int not null default 0,
  open_until timestamptz,
  primary key (org, origin)
);

-- Of a session (stream), of an agent, or, with neither, of the whole org.
create table destination (
  id text primary key,
  org text not null references org,
  stream text references stream,
  agent_id text references agent,
  slot int not null,
  url text not null,
  origin text not null,
  level text not null,
  types text[],
  include_raw boolean not null,
  enabled boolean not null,
  created_after_seq bigint not null default 0,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  check (stream is null or agent_id is null)
);

-- Slots bound how many a session, an agent and an org have, however many are made at once.
create unique index destination_stream on destination (stream, slot) where stream is not null;

create unique index destination_agent on destination (agent_id, slot) where agent_id is not null;

create unique index destination_org on destination (org, slot) where stream is null and agent_id is null;

-- Whether an org has any.
create index destination_any on destination (org);

-- A rotated secret goes on signing, beside its successor, until it expires.
create table destination_secret (
  id text primary key,
  org text not null references org,
  destination_id text not null references destination on delete cascade,
  sealed text not null,
  expires_at timestamptz,
  created_at timestamptz not null default clock_timestamp()
);

create index destination_secret_of on destination_secret (destination_id, id desc);

-- Written by the append that writes the event. A row falls due to be sent, sent again, or, while it is being sent, to be taken over.
create table delivery (
  stream text not null,
  id text not null,
  org text not null,
  seq bigint not null,
  destination_id text not null,
  origin text not null,
  status text not null default 'pending',
  attempts int not null default 0,
  attempts_before int not null default 0,
  due_at timestamptz default clock_timestamp(),
  node text,
  last_attempt_at timestamptz,
  response_code int,
  response_body text,
  error text,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  primary key (stream, id)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

create index delivery_due on delivery (org, origin, due_at) where due_at is not null;

create index delivery_destination on delivery (destination_id, id desc);

create index delivery_open on delivery (destination_id) where status in ('pending', 'failed');

-- Not by status: then settling, which names the status, would choose this index and compare each row with each.
create index delivery_sending on delivery (node) where node is not null;

-- Raised with every change of a session's destinations: an append that was built before the change is built again.
alter table stream add column destinations bigint not null default 0;

grant select, insert, update, delete on endpoint, destination, destination_secret, delivery to overwinter_runtime;
