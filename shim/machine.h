// PID 1 of a machine: reaps every orphan and keeps a few commands running, each started again when it ends, after a
// delay that grows while it fails. On SIGTERM they end one after the other, the last first. Other signals are passed on
// to the last.
#pragma once

// argv of the commands, with "--" between them. Ends with the last one's exit code.
[[noreturn]] void runMachine(char** argv, char** envp);
