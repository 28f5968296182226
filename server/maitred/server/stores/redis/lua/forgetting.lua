-- The tombstones that still have something to delete, each with what it keeps, as it was noted.

local found = {}
for _, ref in ipairs(call('HKEYS', P .. 'forgetting')) do
  found[#found + 1] = ref
  found[#found + 1] = call('HGET', P .. 'keeping', ref) or ''
end
return found
