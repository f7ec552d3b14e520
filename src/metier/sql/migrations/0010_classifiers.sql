-- Trained classifiers, versioned; a version is never changed once written.
CREATE TABLE classifiers (
    name        text NOT NULL,
    version     int NOT NULL,
    card        jsonb NOT NULL,                 -- labels, features, data digest, measures on the test split
    weights     bytea NOT NULL,                 -- numpy arrays in an .npz file, read without pickle
    digest      text NOT NULL,                  -- SHA-256 of the weights
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);
