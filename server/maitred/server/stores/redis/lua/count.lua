-- How many aggregates of a kind are listed.

return call('ZCARD', P .. 'heads:' .. take())
