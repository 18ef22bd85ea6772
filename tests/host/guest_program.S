# A guest in 512 bytes: it greets on the screen, and on COM1 again and again until it hears a
# byte; what is sent before anybody is connected is lost. Then it obeys COM1, byte by byte.
#
#   p  switch the power off        r  restart             g  go to a graphics mode
#   s  scroll one line, as Linux does: by moving the start of the shown memory
#   i  send the number of the CRT register that is chosen
#   f  flood COM1 for ever         others  come back in upper case
#
# The name is written over by the test; it tells which medium was booted.

        .code16
        .globl _start
_start:
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x7c00, %sp
        movw    $0xb800, %ax
        movw    %ax, %es
        ljmp    $0, $main

name:   .ascii  "NAMENAME"
        .byte   0

main:
        movw    $0x0003, %ax            # 80 x 25, cleared
        int     $0x10
        movw    $0x00e3, %ax            # COM1: 9600 8N1
        xorw    %dx, %dx
        int     $0x14
        movw    $name, %si
        xorw    %di, %di
show:   lodsb
        testb   %al, %al
        jz      greet
        movb    %al, %es:(%di)
        movb    %al, %es:4000(%di)      # the line after the last one, seen after a scroll by 25
        addw    $2, %di
        jmp     show

greet:  movw    $name, %si
1:      lodsb
        testb   %al, %al
        jz      2f
        call    send
        jmp     1b
2:      movb    $'\n', %al
        call    send
        sti
        movw    0x46c, %bx              # the BIOS counts 18.2 ticks a second here
        addw    $4, %bx
3:      movw    $0x3fd, %dx
        inb     %dx, %al
        testb   $0x01, %al
        jnz     obey
        movw    0x46c, %ax
        subw    %bx, %ax
        js      3b
        jmp     greet

obey:   call    receive
        cmpb    $'p', %al
        je      power_off
        cmpb    $'r', %al
        je      restart
        cmpb    $'g', %al
        je      graphics
        cmpb    $'s', %al
        je      scroll
        cmpb    $'f', %al
        je      flood
        cmpb    $'i', %al
        je      index
        subb    $0x20, %al
        call    send
        jmp     obey

power_off:                              # ACPI by hand: the PIIX4 function's PM base is 0x600
        movw    $0x604, %dx
        movw    $0x2000, %ax
        outw    %ax, %dx
        jmp     obey

restart:
        movb    $0xfe, %al              # keyboard controller: pulse the reset line
        outb    %al, $0x64
        jmp     obey

graphics:
        movw    $0x0012, %ax
        int     $0x10
        movb    $'G', %al
        call    send
        jmp     obey

scroll:                                 # start address 2000 = 25 lines of 80 characters
        movw    $0x3d4, %dx
        movw    $0x070c, %ax
        outw    %ax, %dx
        movw    $0xd00d, %ax
        outw    %ax, %dx
        movb    $0x0e, %al              # another register stays chosen, as in a driver's middle
        outb    %al, %dx
        movb    $'S', %al
        call    send
        jmp     obey

index:  movw    $0x3d4, %dx
        inb     %dx, %al
        call    send
        jmp     obey

flood:  movb    $'.', %al
        call    send
        jmp     flood

send:   pushw   %dx
        pushw   %ax
        movw    $0x3fd, %dx
1:      inb     %dx, %al
        testb   $0x20, %al
        jz      1b
        popw    %ax
        movw    $0x3f8, %dx
        outb    %al, %dx
        popw    %dx
        ret

receive:
        movw    $0x3fd, %dx
1:      inb     %dx, %al
        testb   $0x01, %al
        jz      1b
        movw    $0x3f8, %dx
        inb     %dx, %al
        ret

        .org    510
        .word   0xaa55
