-- The projections that rows were written to.

return call('SMEMBERS', P .. 'tables')
