-- End of the part of the audit log that was deleted because of its age: the last deleted row, and a keyed hash over both columns, so that
-- nobody else can cut off a beginning.
CREATE TABLE audit_start (
    seq BIGINT NOT NULL,
    hash TEXT NOT NULL,
    seal TEXT NOT NULL
);
