"""A Dask scheduler for the controller: keyword arguments come as one line of JSON on standard input,
the address goes to standard output in the same form, and the end of standard input ends it."""

import asyncio
import json
import sys


async def main():
    arguments = json.loads(sys.stdin.readline())
    try:
        from distributed import Scheduler

        scheduler = await Scheduler(**arguments)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return
    started = {"ip": scheduler.ip, "address": scheduler.address, "port": scheduler.port}
    print(json.dumps(started), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await scheduler.close()


asyncio.run(main())
