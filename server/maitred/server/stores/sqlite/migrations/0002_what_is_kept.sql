-- What a deletion keeps is noted with it. One that an older version began keeps what all did then:
-- payments, and the claims on ids of their providers.

ALTER TABLE forgetting ADD COLUMN kept TEXT NOT NULL
    DEFAULT '{"tables": [1], "spaces": ["provider"]}';
