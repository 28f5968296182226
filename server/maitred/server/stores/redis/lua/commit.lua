-- One commit: all of it is written, or nothing is. Answers "C", or what stood against it.
--
-- Redis undoes nothing when a script fails, so everything is decided before the first write, and
-- every write can only fail where memory is short or writing is forbidden, which is found at the
-- first of them.

-- Expired claims that a commit with claims clears away: more than it can add.
local EXPIRED = 8

local appends, claims, releases, rows, drops = {}, {}, {}, {}, {}
for number = 1, take_number() do
  appends[number] = take_append()
end
for number = 1, take_number() do
  claims[number] = {name = take(), owner = take(), expires = take()}
end
for number = 1, take_number() do
  releases[number] = {name = take(), owner = take()}
end
for number = 1, take_number() do
  rows[number] = {
    tab = take(), key = take(), ref = take(), created = take(), status = take(), flag = take(),
    body = take(),
  }
end
for number = 1, take_number() do
  drops[number] = {tab = take(), key = take()}
end

local heads = {}
for number, append in ipairs(appends) do
  heads[number] = find(append.ref) or false
end
for number, append in ipairs(appends) do
  if is_applied(append, heads[number]) then
    return 'C'
  end
end
for number, append in ipairs(appends) do
  local outcome = replay(append, heads[number])
  if outcome then
    return outcome
  end
end
for number, append in ipairs(appends) do
  local outcome = conflict(append, heads[number])
  if outcome then
    return outcome
  end
end

local function held_by(name, owner)
  return #name .. ':' .. name .. owner
end

local given_up = {}
for _, release in ipairs(releases) do
  given_up[held_by(release.name, release.owner)] = true
end
local now = claims[1] and sortable(now_us())
for _, claim in ipairs(claims) do
  local held = call('HMGET', claim_key(claim.name), 'o', 'e')
  local owner = held[1]
  if owner and owner ~= claim.owner and (held[2] == '' or held[2] > now)
    and not given_up[held_by(claim.name, owner)] then
    return {'T', claim.name, owner}
  end
end

for number, append in ipairs(appends) do
  write_append(append, heads[number])
end
for _, release in ipairs(releases) do
  local held = call('HMGET', claim_key(release.name), 'o', 'e')
  if held[1] == release.owner then
    drop_claim(release.name, held[1], held[2])
  end
end
for _, claim in ipairs(claims) do
  local held = call('HMGET', claim_key(claim.name), 'o', 'e')
  if held[1] then
    drop_claim(claim.name, held[1], held[2])
  end
  call('HSET', claim_key(claim.name), 'o', claim.owner, 'e', claim.expires)
  call('ZADD', P .. 'claims', 0, claim.name)
  call('ZADD', claims_key(claim.owner), 0, claim.name)
  if claim.expires ~= '' then
    call('ZADD', P .. 'expiries', 0, claim.expires .. claim.name)
  end
end
for _, row in ipairs(rows) do
  local key, index = row_key(row.tab, row.key), P .. 'rows:' .. row.tab
  local old = call('HMGET', key, 'p', 'r', 's', 'f')
  local position = old[1]
  if not position then
    position = digits(call('HINCRBY', P .. 'meta', 'rows', 1))
    call('ZADD', index, position, row.key)
    call('SADD', P .. 'tables', row.tab)
  end
  call('HSET', key, 'p', position, 'r', row.ref, 'c', row.created, 's', row.status,
    'f', row.flag, 'b', row.body)
  if old[2] ~= row.ref then
    call('ZADD', index .. ':r:' .. row.ref, position, row.key)
    if old[1] then
      call('ZREM', index .. ':r:' .. old[2], row.key)
    end
  end
  if old[3] ~= row.status then
    call('ZADD', index .. ':s:' .. row.status, position, row.key)
    if old[1] then
      call('ZREM', index .. ':s:' .. old[3], row.key)
    end
  end
  if old[4] ~= row.flag then
    if row.flag ~= '0' then
      call('ZADD', index .. ':f:' .. row.flag, position, row.key)
    end
    if old[1] then
      call('ZREM', index .. ':f:' .. old[4], row.key)
    end
  end
end
for _, drop in ipairs(drops) do
  drop_row(drop.tab, drop.key)
end
if now then
  local gone = call('ZRANGEBYLEX', P .. 'expiries', '-', '[' .. now .. '\255', 'LIMIT', 0, EXPIRED)
  for _, member in ipairs(gone) do
    local expires, name = string.sub(member, 1, 20), string.sub(member, 21)
    drop_claim(name, call('HGET', claim_key(name), 'o') or '', expires)
  end
end
return 'C'
