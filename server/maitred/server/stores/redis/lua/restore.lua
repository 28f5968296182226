-- Write an aggregate as another store kept it: the events that stage.lua has put aside, those that
-- come here, and the head, all at once. Answers 1, or 0 where its <ref> exists and stays as it is.

-- Staged events that are in this script's memory at a time.
local PIECE = 100

local count = take_number()
local head = {
  ref = take(), version = take(), commit = take(), time = take(), chain = take(), body = take(),
  wake = take(),
}
local tombstone = take() == '1'
local index = {
  created = take(), status = take(), owner = take(), flag = take(), labels = take(),
}
head.kind, head.id = string.sub(head.ref, 1, 2), string.sub(head.ref, 4)

if call('EXISTS', head_key(head.ref)) == 1 then
  call('DEL', staged)
  return 0
end
if call('LLEN', staged) ~= count then
  return redis.error_reply('STAGED some of the log of ' .. head.ref .. ' is gone')
end

for first = 0, count - 1, PIECE do
  for _, packed in ipairs(call('LRANGE', staged, first, first + PIECE - 1)) do
    log_event(head.ref, cmsgpack.unpack(packed))
  end
end
for _ = 1, take_number() do
  log_event(head.ref, take_event())
end
write_head(head.ref, head)
write_index(head.ref, index)
local position = place_head(head.ref)
if tombstone then
  call('HSET', head_key(head.ref), 'd', '1')
else
  move_index(head, position, nil, index)
  set_alarm(head.ref, '', head.wake)
end
call('DEL', staged)
return 1
