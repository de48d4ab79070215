"""`reelgate doctor`: what is wrong with a configuration and all it names, why that matters, what to do.

rules        every kind of finding with its reason and its remedy: data
refusals     what already stops the start, told in the same form
settings     what can be seen in the values alone
places       files and folders of this machine, its ports, buckets
stores       the database
vendors      the way to each provider, and whether it takes its key; nothing that could cost money
case         what is examined
aside        what blocks, so that nothing waits for it for ever
machine      what is asked of the machine, so that tests can answer instead
examination  all of it at once, each part within bounds of time
verb         the command
"""
