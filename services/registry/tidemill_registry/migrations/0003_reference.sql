-- What drift of a version is measured against: a digest in the artifact store; none of versions from before.
ALTER TABLE registry.versions ADD COLUMN reference text;
