-- Who owns a key now: owner and expiry, or nothing.

local found = call('HMGET', claim_key(take()), 'o', 'e')
if found[1] and (found[2] == '' or found[2] > sortable(now_us())) then
  return found
end
return false
