-- Why a call failed, in a few words without contents: 'http_401', 'ECONNREFUSED', 'connect_timeout'.
ALTER TABLE calls ADD COLUMN error_cause text;
