CREATE TABLE registry.pipelines (
    pipeline text PRIMARY KEY,
    revision integer NOT NULL,
    digest text NOT NULL,
    spec jsonb NOT NULL,
    frozen boolean NOT NULL DEFAULT false,
    epoch bigint NOT NULL DEFAULT 0,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- Every accepted definition stays readable: manifests and releases name them by digest.
CREATE TABLE registry.specs (
    digest text PRIMARY KEY,
    pipeline text NOT NULL,
    spec jsonb NOT NULL
);

CREATE TABLE registry.versions (
    pipeline text NOT NULL,
    version integer NOT NULL,
    model text NOT NULL,
    manifest text NOT NULL,
    run_id uuid NOT NULL,
    at_us bigint NOT NULL,
    features jsonb NOT NULL,
    views jsonb NOT NULL,
    spec text NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, version),
    UNIQUE (pipeline, model)
);

-- Versions never change.
CREATE FUNCTION registry.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'rows of % never change', TG_TABLE_NAME; END $$;
CREATE TRIGGER versions_are_immutable BEFORE UPDATE OR DELETE ON registry.versions
    FOR EACH ROW EXECUTE FUNCTION registry.refuse_change();

CREATE TABLE registry.gates (
    event_id uuid PRIMARY KEY,
    pipeline text NOT NULL,
    version integer NOT NULL,
    verdict text NOT NULL,
    body jsonb NOT NULL
);

CREATE TABLE registry.releases (
    pipeline text NOT NULL,
    epoch bigint NOT NULL,
    event_id uuid NOT NULL UNIQUE,
    at_us bigint NOT NULL,
    effective_at_us bigint,
    body jsonb NOT NULL,
    released_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, epoch)
);

-- What became of each training request.
CREATE TABLE registry.requests (
    request_id uuid PRIMARY KEY,
    pipeline text NOT NULL,
    run_id uuid NOT NULL,
    status text NOT NULL,
    epoch bigint,
    version integer,
    detail text NOT NULL DEFAULT ''
);

-- child came from parent; kinds are model, run, request, cause, manifest, release.
CREATE TABLE registry.lineage (
    child_kind text NOT NULL,
    child text NOT NULL,
    parent_kind text NOT NULL,
    parent text NOT NULL,
    pipeline text NOT NULL,
    PRIMARY KEY (child_kind, child, parent_kind, parent)
);
CREATE INDEX lineage_by_parent ON registry.lineage (parent_kind, parent);

-- A hash chain over all decisions: hash = sha256(previous hash || canonical body).
CREATE TABLE registry.audit (
    seq bigint PRIMARY KEY,
    event_id uuid NOT NULL,
    type text NOT NULL,
    pipeline text NOT NULL,
    body text NOT NULL,
    previous text NOT NULL,
    hash text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE ON registry.audit
    FOR EACH ROW EXECUTE FUNCTION registry.refuse_change();
