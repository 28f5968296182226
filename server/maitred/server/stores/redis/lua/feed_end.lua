-- The youngest id that the feed has given, also where its entry is deleted.

if call('EXISTS', P .. 'feed') == 0 then
  return '0-0'
end
local info = call('XINFO', 'STREAM', P .. 'feed')
for number = 1, #info, 2 do
  if info[number] == 'last-generated-id' then
    return info[number + 1]
  end
end
