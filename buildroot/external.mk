include $(sort $(wildcard $(BR2_EXTERNAL_PIPARALLEL_PATH)/package/*/*.mk))
