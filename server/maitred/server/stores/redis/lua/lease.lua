-- Take or renew a lease by the time of this server. Answers token and end, or nothing.

local key, owner, ttl = P .. 'lease:' .. take(), take(), take_number()
local now = now_us()
local found = call('HMGET', key, 'o', 't', 'e')
local held = found[1] and tonumber(found[3]) > now
if held and found[1] ~= owner then
  return false
end
local token = digits((tonumber(found[2] or '0')) + (held and 0 or 1))
local ends = digits(now + ttl)
call('HSET', key, 'o', owner, 't', token, 'e', ends)
return {token, ends}
