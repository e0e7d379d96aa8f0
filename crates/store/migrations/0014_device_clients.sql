-- Client that started a login, as its limit counts: an IPv4 address or an IPv6 /64.
ALTER TABLE device_logins ADD COLUMN client TEXT NOT NULL DEFAULT '';

CREATE INDEX device_logins_by_client ON device_logins (client);
