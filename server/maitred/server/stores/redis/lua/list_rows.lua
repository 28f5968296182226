-- A page of a projection in the order of first writing. See walk.lua for the answer; a line is what
-- read_row gives.

local tab, after, limit, newest = take(), take(), take_number(), take() == '1'
local ref, flag, from, before = take(), take(), take(), take()
local rows = P .. 'rows:' .. tab
local groups = {{rows}}
local statuses = {}
for number = 1, take_number() do
  statuses[number] = rows .. ':s:' .. take()
end
if statuses[1] then
  groups[#groups + 1] = statuses
end
if ref ~= '' then
  groups[#groups + 1] = {rows .. ':r:' .. ref}
end
if flag ~= '' and flag ~= '0' then
  groups[#groups + 1] = {rows .. ':f:' .. flag}
end

local function accept(key)
  local row = read_row(tab, key)
  if (flag ~= '0' or row[7] == '0') and (from == '' or row[5] >= from)
    and (before == '' or row[5] < before) then
    return row, #row[8]
  end
end

local count = take_number()
if count == 0 then
  return walk(groups, newest, after, limit, accept)
end

local page = {}
for _ = 1, count do
  local key = take()
  local position = tonumber(call('HGET', row_key(tab, key), 'p') or '')
  local place = tonumber(after)
  if position and (not place or (newest and position < place) or (not newest and position > place))
    and in_groups(groups, nil, key) then
    page[#page + 1] = {key, position}
  end
end
in_order(page, newest)
local answer, held = {false}, 0
for _, entry in ipairs(page) do
  if #answer > limit or held >= PAGE_BYTES then
    break
  end
  local line, bytes = accept(entry[1])
  if line then
    answer[#answer + 1], held = line, held + bytes
  end
end
return answer
