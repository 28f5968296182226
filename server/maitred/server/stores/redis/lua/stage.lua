-- Put a piece of a log aside for restore.lua. Nobody else reads it, and it expires: whoever was
-- interrupted begins anew under another token.

local seconds = take()
for _ = 1, take_number() do
  call('RPUSH', staged, cmsgpack.pack(take_event()))
end
call('EXPIRE', staged, seconds)
return 'C'
