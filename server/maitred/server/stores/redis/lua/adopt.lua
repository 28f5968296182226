-- Take over another store's secret.

call('HSET', P .. 'meta', 'secret', take())
return 1
