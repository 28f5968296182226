-- Shared by listings. A listing walks the smallest index that can answer it, in the order of
-- positions, and asks the others whether they have the member too.

-- A script holds up every other client: so many members and it answers with where it stopped.
local WALK = 1000

local function card(group)
  local sum = 0
  for _, key in ipairs(group) do
    sum = sum + call('ZCARD', key)
  end
  return sum
end

-- Each group is a list of keys without common members; a member must be in one of each group.
local function in_groups(groups, but, member)
  for _, group in ipairs(groups) do
    local found = group == but
    for _, key in ipairs(group) do
      found = found or call('ZSCORE', key, member)
    end
    if not found then
      return false
    end
  end
  return true
end

local function smallest(groups)
  local best, size
  for _, group in ipairs(groups) do
    local count = card(group)
    if not size or count < size then
      best, size = group, count
    end
  end
  return best, size
end

-- The next members of a group behind a position: {member, position}, merged over its keys.
local function next_page(group, newest, after, size)
  local page = {}
  for _, key in ipairs(group) do
    local found
    if newest then
      found = call('ZREVRANGEBYSCORE', key, after == '' and '+inf' or '(' .. after, '-inf',
        'WITHSCORES', 'LIMIT', 0, size)
    else
      found = call('ZRANGEBYSCORE', key, after == '' and '-inf' or '(' .. after, '+inf',
        'WITHSCORES', 'LIMIT', 0, size)
    end
    for number = 1, #found, 2 do
      page[#page + 1] = {found[number], tonumber(found[number + 1])}
    end
  end
  return page
end

local function in_order(page, newest)
  table.sort(page, function(one, two)
    if newest then
      return one[2] > two[2]
    end
    return one[2] < two[2]
  end)
end

-- Answers where to go on, or nothing at the end; then what `accept` made of the members: a line and
-- its bytes.
local function walk(groups, newest, after, limit, accept)
  local best = smallest(groups)
  local size = math.min(math.max(limit, 20), 200)
  local answer, walked, held = {false}, 0, 0
  while true do
    local page = next_page(best, newest, after, size)
    local more = #page >= size
    in_order(page, newest)
    for number = 1, math.min(#page, size) do
      local member, position = page[number][1], page[number][2]
      if #answer > limit or held >= PAGE_BYTES then
        answer[1] = after
        return answer
      end
      walked = walked + 1
      after = digits(position)
      if in_groups(groups, best, member) then
        local line, bytes = accept(member, after)
        if line then
          answer[#answer + 1], held = line, held + bytes
        end
      end
    end
    if not more then
      return answer
    end
    if walked >= WALK then
      answer[1] = after
      return answer
    end
  end
end
