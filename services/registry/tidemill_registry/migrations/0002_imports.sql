-- Models that no pipeline trains, by name; versions never change.
CREATE TABLE registry.imports (
    model text NOT NULL,
    version integer NOT NULL CHECK (version >= 1),
    digest text NOT NULL,
    size bigint NOT NULL,
    event_id uuid NOT NULL UNIQUE,
    imported_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model, version),
    UNIQUE (model, digest)
);
CREATE TRIGGER imports_are_immutable BEFORE UPDATE OR DELETE ON registry.imports
    FOR EACH ROW EXECUTE FUNCTION registry.refuse_change();
