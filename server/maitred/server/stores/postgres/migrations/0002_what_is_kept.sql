-- What a deletion keeps is noted with it. One that an older version began, or begins beside this
-- one, keeps what all did then: payments, and the claims on ids of their providers.
-- minimum server: 1

ALTER TABLE maitred.forgetting ADD COLUMN IF NOT EXISTS kept text NOT NULL
    DEFAULT '{"tables": [1], "spaces": ["provider"]}';
