-- Take aggregates whose alarm has gone off. An alarm may be earlier than the wake time of its head:
-- then it is set to that, and the aggregate is not handed out. One that is handed out has its alarm
-- set to the end of the lease; a commit that moves the wake time to before that sets it back.
-- Returns how many alarms were looked at, then wake time, position and <ref> of each one taken.

local now, lease_end, limit = take(), take(), take_number()
local rung = call('ZRANGEBYLEX', P .. 'wake', '-', '[' .. now .. '\255', 'LIMIT', 0, limit)
local answer = {#rung}
for _, member in ipairs(rung) do
  local alarm, ref = string.sub(member, 1, 20), string.sub(member, 21)
  local head = call('HMGET', head_key(ref), 'w', 'p')
  local wake = head[1] or ''
  if wake ~= '' and wake <= now then
    set_alarm(ref, alarm, lease_end)
    answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = wake, head[2], ref
  else
    set_alarm(ref, alarm, wake)
  end
end
return answer
