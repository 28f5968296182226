-- A page of all claims, expired ones included: <name>, owner and expiry, one after the other.

local after, limit = take(), take_number()
local answer = {}
for _, name in ipairs(call('ZRANGEBYLEX', P .. 'claims', '(' .. after, '+', 'LIMIT', 0, limit)) do
  local held = call('HMGET', claim_key(name), 'o', 'e')
  answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = name, held[1], held[2]
end
return answer
