-- The tombstones that still have something to delete.

return call('HKEYS', P .. 'forgetting')
