-- Failed logins are counted for each user name and address beside each user name, so that whoever guesses locks himself
-- out and not the user.

-- SHA-256 of tenant and user name, also where subject_hash is that of an address too: a new password clears all.
ALTER TABLE login_failures ADD COLUMN account_hash bytea;

CREATE INDEX login_failures_account_idx ON login_failures (account_hash);
