-- Shared by what writes: taking an append from the arguments, deciding it, writing it.

local function take_append()
  local append = {
    ref = take(), base = take(), version = take(), commit = take(), request = take(),
    fingerprint = take(), time = take(), change = take(), facts = take(),
    personal = take(), chain = take(), body = take(), wake = take(),
  }
  append.kind, append.id = string.sub(append.ref, 1, 2), string.sub(append.ref, 4)
  append.personal = append.personal ~= '' and string.sub(append.personal, 2) or nil
  if take() == '1' then
    append.index = {
      created = take(), status = take(), owner = take(), flag = take(), labels = take(),
    }
  end
  return append
end

local function find(ref)
  local found = call('HMGET', head_key(ref), 'v', 'c', 'd', 'w', 'a', 'p')
  if not found[1] then
    return nil
  end
  return {
    version = found[1], commit = found[2], tombstone = found[3], wake = found[4],
    alarm = found[5], position = found[6],
  }
end

-- An applied commit is known by its id, whatever came after it.
local function is_applied(append, head)
  if not head or head.version == append.base then
    return false
  end
  if head.version == append.version then
    return head.commit == append.commit
  end
  local packed = call('HGET', log_key(append.ref), append.version)
  local event = packed and unpack_event(packed)
  return event and event[2] == append.commit
end

local function replay(append, head)
  if not head or append.request == '' then
    return nil
  end
  local version = call('HGET', requests_key(append.ref), append.request)
  if not version or (head.tombstone and version ~= head.version) then
    return nil
  end
  local event = unpack_event(call('HGET', log_key(append.ref), version) or '')
  if not event then
    return redis.error_reply('DAMAGED event ' .. version .. ' of ' .. append.ref .. ' is missing')
  end
  return {'R', append.ref, version, event[4]}
end

local function conflict(append, head)
  if not head then
    return append.base ~= '0' and {'V', append.ref, '0', ''} or nil
  end
  if head.version == append.base and not head.tombstone then
    return nil
  end
  return {'V', append.ref, head.version, head.commit}
end

-- Every index that finds a head, as a set of keys.
local function index_keys(kind, index)
  local heads = P .. 'heads:' .. kind
  local keys = {[heads] = true, [heads .. ':s:' .. index.status] = true}
  if index.owner ~= '' then
    keys[heads .. ':u:' .. index.owner] = true
  end
  if index.flag ~= '0' then
    keys[heads .. ':f:' .. index.flag] = true
  end
  for _, label in ipairs(cjson.decode(index.labels)) do
    keys[heads .. ':l:' .. #label[1] .. ':' .. label[1] .. label[2]] = true
  end
  return keys
end

local function stored_index(ref)
  local found = call('HMGET', head_key(ref), 'n', 's', 'u', 'f', 'l')
  return {
    created = found[1], status = found[2], owner = found[3], flag = found[4],
    labels = found[5],
  }
end

-- Move a head from the indexes of `old` to those of `new`; either may be nil.
local function move_index(append, position, old, new)
  local before = old and index_keys(append.kind, old) or {}
  local after = new and index_keys(append.kind, new) or {}
  for key in pairs(after) do
    if not before[key] then
      call('ZADD', key, position, append.id)
    end
  end
  for key in pairs(before) do
    if not after[key] then
      call('ZREM', key, append.id)
    end
  end
  if not (old and new and old.created == new.created) then
    local created = P .. 'created:' .. append.kind
    if new then
      call('ZADD', created, 0, new.created .. append.id)
    end
    if old then
      call('ZREM', created, old.created .. append.id)
    end
  end
end

local function write_index(ref, index)
  call('HSET', head_key(ref), 'n', index.created, 's', index.status, 'u', index.owner,
    'f', index.flag, 'l', index.labels)
end

-- An alarm is never later than the wake time, but for the end of a lease: see due.lua.
local function set_alarm(ref, old, new)
  if old and old ~= '' then
    call('ZREM', P .. 'wake', old .. ref)
  end
  if new ~= '' then
    call('ZADD', P .. 'wake', 0, new .. ref)
  end
  call('HSET', head_key(ref), 'a', new)
end

local function log_event(ref, event)
  local place = call('XADD', P .. 'feed', '*', 'r', ref, 'v', event.version)
  call('HSET', log_key(ref), event.version, cmsgpack.pack({
    place, event.commit, event.request, event.fingerprint, event.time, event.change,
    event.facts, event.chain,
  }))
  if event.personal then
    call('HSET', personal_key(ref), event.version, event.personal)
  end
  if event.request ~= '' then
    call('HSET', requests_key(ref), event.request, event.version)
  end
end

-- `head` holds what an append leads to.
local function write_head(ref, head)
  call('HSET', head_key(ref), 'v', head.version, 'c', head.commit, 't', head.time,
    'k', head.chain, 'b', head.body, 'w', head.wake)
  -- A hint, which may be forbidden: that must not stop a commit half-way.
  redis.pcall('PUBLISH', P .. 'changed:' .. ref, head.version)
end

-- Give a new head its place in listings.
local function place_head(ref)
  local position = digits(call('HINCRBY', P .. 'meta', 'heads', 1))
  call('HSET', head_key(ref), 'p', position)
  call('ZADD', P .. 'refs', 0, ref)
  return position
end

local function write_event(append)
  log_event(append.ref, append)
  write_head(append.ref, append)
end

local function write_append(append, head)
  write_event(append)
  local position = head and head.position or place_head(append.ref)
  if append.index then
    move_index(append, position, head and stored_index(append.ref), append.index)
    write_index(append.ref, append.index)
  end
  local wake, alarm = head and head.wake or '', head and head.alarm or ''
  if append.wake ~= wake and append.wake ~= '' and (alarm == '' or append.wake < alarm) then
    set_alarm(append.ref, alarm, append.wake)
  end
end

local function drop_row(tab, key)
  local old = call('HMGET', row_key(tab, key), 'p', 'r', 's', 'f')
  if old[1] then
    local rows = P .. 'rows:' .. tab
    call('ZREM', rows, key)
    call('ZREM', rows .. ':r:' .. old[2], key)
    call('ZREM', rows .. ':s:' .. old[3], key)
    call('ZREM', rows .. ':f:' .. old[4], key)
    call('DEL', row_key(tab, key))
  end
end

local function drop_claim(name, owner, expires)
  call('ZREM', P .. 'claims', name)
  call('ZREM', claims_key(owner), name)
  if expires ~= '' then
    call('ZREM', P .. 'expiries', expires .. name)
  end
  call('DEL', claim_key(name))
end
