-- The versions of some heads.

local found = {}
for number = 3, #ARGV do
  found[number - 2] = call('HGET', head_key(ARGV[number]), 'v')
end
return found
