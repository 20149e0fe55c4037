-- Bounds: how long deliveries are owed, how long endpoints and client tokens are kept, and what one org's endpoints cost the others.

-- When somebody last asked for it again, or its destination's pause ended: its age counts from then.
alter table delivery add column asked_at timestamptz;

create index delivery_age on delivery ((coalesce(asked_at, created_at))) where due_at is not null;

-- By a hash of the origin: a claim looks at some endpoints of each org, and begins at a place that chance chooses.
create index delivery_queue on delivery (org, md5(origin), due_at) where due_at is not null;

drop index delivery_due;

-- When a destination last came to it: what was used lately is not removed, as a destination may be on its way.
alter table endpoint add column used_at timestamptz not null default now();

-- Whether an org has any, and whether an endpoint has.
create index destination_endpoint on destination (org, origin);

drop index destination_any;

-- Raised with every change of its secrets: of two that rotate at once, the second sees the first.
alter table destination add column secrets bigint not null default 0;

-- The API key that asked for it: it ends with the key's revocation.
alter table client_token add column minted_by text;

create index client_token_age on client_token (expires_at);
