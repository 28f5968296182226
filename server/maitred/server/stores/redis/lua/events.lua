-- A page of one log. Answers the version to go on from, or nothing at the end; then the events.
-- All events, or those of some changes: of these the missing are not noticed.

local ref, after, before = take(), take_number(), take_number()
local limit, walk, newest = take_number(), take_number(), take() == '1'
local changes
local count = take_number()
if count >= 0 then
  changes = {}
  for _ = 1, count do
    changes[take()] = true
  end
end

local head = call('HMGET', head_key(ref), 'v', 'd')
if not head[1] then
  return {false}
end
local version = tonumber(head[1])
local low = math.max(after + 1, head[2] and version or 1)
local high = math.min(before - 1, version)
local from, to, step = low, high, 1
if newest then
  from, to, step = high, low, -1
end

local answer, held = {false}, 0
for number = from, to, step do
  if walk == 0 or #answer > limit or held >= PAGE_BYTES then
    answer[1] = digits(number)
    break
  end
  walk = walk - 1
  local name = digits(number)
  if changes then
    local event = unpack_event(call('HGET', log_key(ref), name) or '')
    if event and changes[event[6]] then
      event = read_event(ref, name)
      answer[#answer + 1], held = event, held + event_bytes(event)
    end
  else
    local event = read_event(ref, name)
    if not event then
      return damaged(ref, name)
    end
    answer[#answer + 1], held = event, held + event_bytes(event)
  end
end
return answer
