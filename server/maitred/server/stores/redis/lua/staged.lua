-- Shared by what restores: an event as it comes, and where those wait that came before the rest.

local function take_event()
  local event = {
    version = take(), commit = take(), request = take(), fingerprint = take(), time = take(),
    change = take(), facts = take(), personal = take(), chain = take(),
  }
  event.personal = event.personal ~= '' and string.sub(event.personal, 2) or nil
  return event
end

local staged = P .. 'staged:' .. take()
