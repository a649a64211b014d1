// PID 1 of a machine: reaps every orphan, keeps one command running, passes SIGTERM on to it.
#pragma once

// argv and envp of the command. Ends when the command has ended after a SIGTERM.
[[noreturn]] void runMachine(char** argv, char** envp);
