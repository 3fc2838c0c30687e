package main

import "syscall"

// sysProcAttr lets the system end the processes when the checker ends, however it does.
func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
