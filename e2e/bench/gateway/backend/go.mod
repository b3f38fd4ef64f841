module slipway.dev/bench/backend

go 1.24
