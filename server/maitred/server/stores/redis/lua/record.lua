-- An aggregate with a page of its events and, with the first page, its rows.

local ref, after, limit = take(), take_number(), take_number()
local head = read_head(ref)
if not head then
  return {false}
end
local last = tonumber(head[1])
local events, rows = {}, {}
for number = math.max(after + 1, head[12] and last or 1), last do
  if #events == limit then
    break
  end
  local event = read_event(ref, digits(number))
  if not event then
    return damaged(ref, digits(number))
  end
  events[#events + 1] = event
end
if after == 0 then
  for number = at + 1, #ARGV do
    local tab = ARGV[number]
    for _, key in ipairs(call('ZRANGE', P .. 'rows:' .. tab .. ':r:' .. ref, 0, -1)) do
      rows[#rows + 1] = read_row(tab, key)
    end
  end
end
return {head, events, rows}
