"""The batching middleware: what waits for the device goes there together.

It is work-conserving. An idle device starts at once; while it is busy the queue grows, and the next batch with it. There is no
timer: to wait for company would only cost those time who come alone.

The batcher knows nothing of models: a job is anything that has a size, and its work a function of a list of such jobs. `queue` says
who goes next, `workers` runs it; in `batcher` is who is let in, and what becomes of those who wait.
"""
