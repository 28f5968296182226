-- A page of the log of all aggregates. Answers the id of the last entry that was read, or nothing
-- where there is none; then <ref> and event, one after the other.

local after, limit = take(), take_number()
local entries = call('XRANGE', P .. 'feed', '(' .. after, '+', 'COUNT', limit)
local answer, held = {false}, 0
for _, entry in ipairs(entries) do
  local ref, version = entry[2][2], entry[2][4]
  local event = read_event(ref, version)
  if not event then
    return damaged(ref, version)
  end
  answer[1] = entry[1]
  answer[#answer + 1], answer[#answer + 2] = ref, event
  held = held + event_bytes(event)
  if held >= PAGE_BYTES then
    break
  end
end
return answer
