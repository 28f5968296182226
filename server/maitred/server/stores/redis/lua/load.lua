-- A head and the event of one request, or of none.

local ref, request = take(), take()
local head = read_head(ref)
if not head or request == '' then
  return {head, false}
end
local version = call('HGET', requests_key(ref), request)
if not version or (head[12] and version ~= head[1]) then
  return {head, false}
end
local event = read_event(ref, version)
return event and {head, event} or damaged(ref, version)
