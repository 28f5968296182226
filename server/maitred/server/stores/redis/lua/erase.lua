-- Delete a piece of what a tombstone leaves behind. Answers "done", or how many of the owner's
-- claims are to be passed over next time, because they are kept.

-- Names of claims that are kept begin with one of `kept`.
local ref, skip, size = take(), take_number(), take_number()
local tables = {}
for number = 1, take_number() do
  tables[number] = take()
end
local kept = {}
while at < #ARGV do
  kept[#kept + 1] = take()
end

local function is_kept(name)
  for _, beginning in ipairs(kept) do
    if string.sub(name, 1, #beginning) == beginning then
      return true
    end
  end
  return false
end

local lowest = tonumber(call('HGET', P .. 'forgetting', ref) or '')
if not lowest then
  return 'done'
end
local last = tonumber(call('HGET', head_key(ref), 'v'))
if lowest < last then
  local versions, requests = {}, {}
  for version = lowest, math.min(lowest + size, last) - 1 do
    versions[#versions + 1] = digits(version)
  end
  for _, packed in ipairs(call('HMGET', log_key(ref), unpack(versions))) do
    local event = packed and unpack_event(packed)
    if event then
      call('XDEL', P .. 'feed', event[1])
      if event[3] ~= '' then
        requests[#requests + 1] = event[3]
      end
    end
  end
  call('HDEL', log_key(ref), unpack(versions))
  call('HDEL', personal_key(ref), unpack(versions))
  if requests[1] then
    call('HDEL', requests_key(ref), unpack(requests))
  end
  call('HSET', P .. 'forgetting', ref, digits(lowest + #versions))
  return '0'
end

for _, tab in ipairs(tables) do
  local keys = call('ZRANGE', P .. 'rows:' .. tab .. ':r:' .. ref, 0, size - 1)
  for _, key in ipairs(keys) do
    drop_row(tab, key)
  end
  if keys[1] then
    return '0'
  end
end

local names = call('ZRANGE', claims_key(string.sub(ref, 4)), skip, skip + size - 1)
for _, name in ipairs(names) do
  if is_kept(name) then
    skip = skip + 1
  else
    local held = call('HMGET', claim_key(name), 'o', 'e')
    drop_claim(name, held[1] or string.sub(ref, 4), held[2] or '')
  end
end
if #names == size then
  return digits(skip)
end
call('HDEL', P .. 'forgetting', ref)
call('HDEL', P .. 'keeping', ref)
return 'done'
