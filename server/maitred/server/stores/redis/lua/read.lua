-- Shared by what reads: heads, events and rows as they are answered.

local function read_head(ref)
  local found = call('HMGET', head_key(ref), 'v', 'c', 't', 'k', 'b', 'n', 's', 'u', 'f', 'l', 'w',
    'd')
  return found[1] and found
end

-- The version in front of the event's own fields, the personal part behind them.
local function read_event(ref, version)
  local event = unpack_event(call('HGET', log_key(ref), version) or '')
  if event then
    table.insert(event, 1, version)
    event[10] = call('HGET', personal_key(ref), version)
  end
  return event
end

-- What a page is bounded in: facts and personal part.
local function event_bytes(event)
  return #event[8] + (event[10] and #event[10] or 0)
end

local function damaged(ref, version)
  return redis.error_reply('DAMAGED event ' .. version .. ' of ' .. ref .. ' is missing')
end

local function read_row(tab, key)
  local found = call('HMGET', row_key(tab, key), 'p', 'r', 'c', 's', 'f', 'b')
  return found[1] and {tab, key, unpack(found)}
end
