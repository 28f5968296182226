-- Append the last event of an aggregate and make it a tombstone; the rest is left to erase.lua.

local append = take_append()
local kept = take()
local head = find(append.ref)
if not head then
  return {'V', append.ref, '0', ''}
end
if is_applied(append, head) then
  return 'C'
end
local outcome = replay(append, head) or conflict(append, head)
if outcome then
  return outcome
end

local old = stored_index(append.ref)
append.wake = ''
write_event(append)
move_index(append, head.position, old, nil)
write_index(append.ref, append.index or {
  created = old.created, status = '0', owner = '', flag = '0', labels = '[]',
})
set_alarm(append.ref, head.alarm, '')
call('HSET', head_key(append.ref), 'd', '1')
call('HSET', P .. 'forgetting', append.ref, '1')
call('HSET', P .. 'keeping', append.ref, kept)
return 'C'
