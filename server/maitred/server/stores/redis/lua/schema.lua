-- The schema of the data.

return call('HGET', P .. 'meta', 'schema')
