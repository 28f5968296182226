-- A page of the aggregates of a kind, newest first. See walk.lua for the answer; a line is id,
-- version, body, position.

-- A range of creation times with at most so many aggregates is sorted; a wider one is walked.
local NARROW = 1000

local kind, after, limit = take(), take(), take_number()
local owner, flag = take(), take()
local from, before = take(), take()
local heads = P .. 'heads:' .. kind
local groups = {{heads}}
local statuses = {}
for number = 1, take_number() do
  statuses[number] = heads .. ':s:' .. take()
end
if statuses[1] then
  groups[#groups + 1] = statuses
end
for _ = 1, take_number() do
  groups[#groups + 1] = {heads .. ':l:' .. take()}
end
-- What is given begins with "=". No owner and no flag are in no index.
if #owner > 1 then
  groups[#groups + 1] = {heads .. ':u:' .. string.sub(owner, 2)}
end
if flag ~= '' and flag ~= '=0' then
  groups[#groups + 1] = {heads .. ':f:' .. string.sub(flag, 2)}
end

local function accept(id, position)
  local key = head_key(kind .. ':' .. id)
  local head = call('HMGET', key, 'v', 'n', 'u', 'f')
  if (owner ~= '=' or head[3] == '') and (flag ~= '=0' or head[4] == '0')
    and (from == '' or head[2] >= from) and (before == '' or head[2] < before) then
    local body = call('HGET', key, 'b')
    return {id, head[1], body, position}, #body
  end
end

if from ~= '' or before ~= '' then
  local created = P .. 'created:' .. kind
  local low = from == '' and '-' or '[' .. from
  local high = before == '' and '+' or '(' .. before
  local _, size = smallest(groups)
  local count = call('ZLEXCOUNT', created, low, high)
  if count <= NARROW and count < size then
    local page = {}
    for _, member in ipairs(call('ZRANGEBYLEX', created, low, high)) do
      local id = string.sub(member, 21)
      local position = tonumber(call('HGET', head_key(kind .. ':' .. id), 'p'))
      if after == '' or position < tonumber(after) then
        page[#page + 1] = {id, position}
      end
    end
    in_order(page, true)
    local answer, held = {false}, 0
    for _, entry in ipairs(page) do
      if #answer > limit or held >= PAGE_BYTES then
        break
      end
      if in_groups(groups, nil, entry[1]) then
        local line, bytes = accept(entry[1], digits(entry[2]))
        if line then
          answer[#answer + 1], held = line, held + bytes
        end
      end
    end
    return answer
  end
end
return walk(groups, true, after, limit, accept)
