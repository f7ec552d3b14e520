-- What was used by calls whose records have since been deleted by age: lease and records agree for ever.
ALTER TABLE leases ADD COLUMN forgotten numeric(24, 9) NOT NULL DEFAULT 0;
