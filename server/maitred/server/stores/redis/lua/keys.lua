-- What every script begins with: the names of the keys, and the check of the history.
--
-- Every key begins with the prefix of the store, here P. A <ref> is the kind in two digits, ":" and
-- the id. A time is 20 digits that sort as text: 10^19 + nanoseconds. Times never become numbers
-- here, because a double holds 53 bits; versions and positions are counts, and fit. A claim's
-- <name> is its space, a zero byte, and the key: see codec.py, which alone makes and reads it.
--
-- | key                        | type   | holds                                                   |
-- |----------------------------|--------|---------------------------------------------------------|
-- | meta                       | hash   | schema, epoch, secret; heads, rows: last position given; |
-- |                            |        | run: of the server whose log was last written anew       |
-- | refs                       | zset   | every <ref> there ever was, by text                     |
-- | head:<ref>                 | hash   | the head, see HEAD below                                |
-- | log:<ref>                  | hash   | version -> event, see EVENT below                       |
-- | personal:<ref>             | hash   | version -> personal part, so that it can be erased      |
-- | requests:<ref>             | hash   | request id -> version                                   |
-- | feed                       | stream | r: <ref>, v: version; of every event, in commit order   |
-- | heads:<kind>               | zset   | id by position; tombstones are in none of these         |
-- | heads:<kind>:s:<status>    | zset   | the same, of one status                                 |
-- | heads:<kind>:u:<owner>     | zset   | the same, of one owner                                  |
-- | heads:<kind>:f:<flag>      | zset   | the same, of one flag other than 0                      |
-- | heads:<kind>:l:<label>     | zset   | the same, of one label: length of its name, ":", both   |
-- | created:<kind>             | zset   | creation time and id, by text                           |
-- | wake                       | zset   | alarm and <ref>, by text                                |
-- | claim:<name>               | hash   | o: owner, e: time of expiry or empty                    |
-- | claims:<id>                | zset   | <name>, by text; of owners that are, or begin with, <id> |
-- | claims                     | zset   | every <name>, by text                                   |
-- | expiries                   | zset   | time of expiry and <name>, by text                      |
-- | row:<table>:<key>          | hash   | p: position, r: <ref>, c: created, s: status, f: flag,   |
-- |                            |        | b: body                                                 |
-- | rows:<table>               | zset   | key by position                                         |
-- | rows:<table>:s:<status>    | zset   | the same, of one status                                 |
-- | rows:<table>:f:<flag>      | zset   | the same, of one flag other than 0                      |
-- | rows:<table>:r:<ref>       | zset   | the same, of one aggregate                              |
-- | lease:<name>               | hash   | o: owner, t: token, e: microseconds of its end          |
-- | forgetting                 | hash   | <ref> of a tombstone -> lowest version not yet deleted  |
-- | keeping                    | hash   | <ref> of such a tombstone -> what it keeps, in JSON     |
-- | tables                     | set    | every <table> that a row was written to                 |
-- | staged:<token>             | list   | EVENTs of an aggregate that is being restored; expires  |
-- | changed:<ref>              | channel| told of every commit; a hint                            |
--
-- HEAD. v: version, c: commit id, t: time, k: chain, b: body, w: wake time or empty, a: alarm or
-- empty, p: position, n: created, s: status, u: owner, f: flag, l: labels as JSON,
-- d: there if it is a tombstone.
--
-- EVENT. An array of strings: feed id, commit id, request id or empty, fingerprint, time, change,
-- facts, chain.

local P = ARGV[1]
local call = redis.call
local at = 2

local function take()
  at = at + 1
  return ARGV[at]
end

local function take_number()
  return tonumber(take())
end

if call('HGET', P .. 'meta', 'epoch') ~= ARGV[2] then
  return redis.error_reply('HISTORY this is not the history that was opened')
end

local function head_key(ref) return P .. 'head:' .. ref end
local function log_key(ref) return P .. 'log:' .. ref end
local function personal_key(ref) return P .. 'personal:' .. ref end
local function requests_key(ref) return P .. 'requests:' .. ref end
local function row_key(tab, key) return P .. 'row:' .. tab .. ':' .. key end
local function claim_key(name) return P .. 'claim:' .. name end

-- Behind a space, an owner's name may say more.
local function claims_key(owner)
  return P .. 'claims:' .. string.match(owner, '^[^ ]*')
end

-- Counts come back as doubles, which would be written as 1e+15.
local function digits(number)
  return string.format('%.0f', number)
end

local function unpack_event(packed)
  local ok, event = pcall(cmsgpack.unpack, packed)
  if ok and type(event) == 'table' and #event == 8 then
    return event
  end
  return nil
end

-- The time of the server, in microseconds: exact in a double until the year 2255.
local function now_us()
  local time = call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function sortable(us)
  return '1' .. string.format('%016.0f', us) .. '000'
end
