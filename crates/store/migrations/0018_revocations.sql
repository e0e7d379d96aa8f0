-- Number of the last entry in the log of revocations (revocations.log, beside the database) whose change this database has. A database that
-- was put back from a backup has a lower one than the log.
CREATE TABLE revocation_log (
    seq BIGINT NOT NULL
);

INSERT INTO revocation_log (seq) VALUES (0);
